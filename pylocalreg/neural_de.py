"""What `NeuralODE` and `NeuralSDE` share: the options every solve has, and a solve run with them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import (
    NOT_NUMBERS,
    check_count,
    check_dt,
    check_flag,
    check_parameters,
    check_resolved,
    check_running_statistics,
    check_saveat,
    check_tensors,
    check_tolerance,
    check_tspan,
    round_time,
)
from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.controllers import ControllerChoice
from pylocalreg.dynamics import LayerDynamics, WithInputs, convolves, is_described
from pylocalreg.engines import Engine, engine_for, get_engine
from pylocalreg.engines.algorithm import Sensitivity
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Jacobian, Keep, KeepStages, Landing, Problem, Trajectory, Watch
from pylocalreg.engines.methods import METHODS, check_compile, check_keep_stages
from pylocalreg.errors import OptionError, SaveAtError
from pylocalreg.events import Events
from pylocalreg.first_step import LastStep
from pylocalreg.julia.models import Drawn, JuliaModel
from pylocalreg.moments import Moments, from_time, to_time
from pylocalreg.observed import observe
from pylocalreg.observed.reached import is_transformed, vmapping
from pylocalreg.pieces import Piece, solve_in_pieces
from pylocalreg.precision import check_products
from pylocalreg.progress import check_progress
from pylocalreg.regularizers import Regularizer
from pylocalreg.regularizers.base import check_regularizer, joined
from pylocalreg.regularizers.integral import Integral
from pylocalreg.replicas import OfReplica
from pylocalreg.solution import Solution, Steps
from pylocalreg.solve_options import check_solve_options, refuse_solve_options
from pylocalreg.step_options import Tstops, check_step_options, in_dtype, refuse_own
from pylocalreg.times import Times


def check_written(engine: Engine, *sides: object) -> None:
    """Raise `OptionError` where the embedded engine would solve dynamics that are written in Julia."""
    if engine.name != "julia" and any(isinstance(side, JuliaModel | Drawn) for side in sides):
        raise OptionError(
            f"engine={engine.name!r}: dynamics written in Julia are not solved there; take engine='julia' "
            "and a state on the CPU"
        )


@functools.lru_cache(maxsize=256)
def _rounded(tspan: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    return check_tspan([round_time(t, dtype) for t in tspan])


class NeuralDE(torch.nn.Module):
    """A differential equation's options, checked at construction."""

    _settings = 0
    """How often anything was set on the module: whoever keeps what its settings come to asks by it."""
    _looked_at = -1
    """The settings whose modules were looked at."""

    def __init__(
        self,
        tspan: Sequence[float | torch.Tensor] | torch.Tensor,
        *,
        solver: str,
        adjoint: Adjoint | Sensitivity,
        abstol: float,
        reltol: float,
        checkpoints: int | None,
        regularizer: Regularizer | None,
        saveat: Sequence[float] | torch.Tensor | None,
        engine: str,
        dt: float | Literal["last"] | None,
        adaptive: bool | None,
        maxiters: int,
        params: Sequence[torch.Tensor],
        tstops: Tstops,
        controller: ControllerChoice,
        landing: Landing,
        progress: bool,
        step_options: dict[str, float | None],
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
        solve_options: Mapping[str, Any] | None = None,
        compile: bool = False,
        keep_stages: KeepStages = False,
        dense_chain: bool = False,
    ) -> None:
        super().__init__()
        check_flag("adaptive", adaptive)
        check_flag("compile", compile)
        self.tspan = tspan
        self.abstol = check_tolerance("abstol", abstol)
        self.reltol = check_tolerance("reltol", reltol)
        self.saveat = None if saveat is None else Moments(saveat)
        check_saveat(self.saveat, self.tspan)
        self.dt = None if dt == "last" else check_dt(dt, self.tspan)
        self.first_step = LastStep() if dt == "last" else None
        self.maxiters = check_count("maxiters", maxiters)
        self.checkpoints = None if checkpoints is None else check_count("checkpoints", checkpoints)

        if regularizer is not None:
            check_regularizer(regularizer)

        dense_chain = dense_chain and not isinstance(regularizer, Integral)
        self.solve_options = check_solve_options(solve_options, self.tspan)

        def check(engine: Engine) -> bool:
            refuse_solve_options(self.solve_options, engine.name, regularizer)
            refuse_own(engine.name, controller=controller, landing=landing)
            if compile:
                check_compile(engine.name, solver)
            check_keep_stages(
                keep_stages, engine.name, solver, adjoint, self.checkpoints, compile, dense_chain
            )
            adaptive_here = engine.check(solver, adjoint, adaptive, self.checkpoints, jacobian, stochastic)
            if regularizer is not None:
                regularizer.check(engine, solver, cast(Adjoint, adjoint), self.tspan)
            return adaptive_here

        self.engine, self.adaptive = engine_for(engine, check)
        self._auto = engine == "auto"
        if not self.adaptive and self.dt is None:
            raise OptionError(f"solver={solver!r} takes fixed steps here: give their size, dt")
        if self.first_step is not None and solver not in METHODS:
            raise OptionError(
                f"dt='last' with solver={str(solver)!r}, whose order is not known here: give a number"
            )
        self.step_options = check_step_options(
            self.tspan,
            self.dt,
            self.adaptive,
            tstops=tstops,
            controller=controller,
            landing=landing,
            **step_options,
        )
        self.progress = check_progress(progress)
        self.solver = solver
        self.adjoint = cast(Adjoint, adjoint)  # of the stack's own the engines see the name
        self.regularizer = regularizer
        self.jacobian: Jacobian = jacobian or "system"
        self.compiled = CompiledSteps() if compile else None
        self.keep_stages = keep_stages
        self.closed_over = check_tensors(params)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._changed()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._changed()

    def _changed(self) -> None:
        self.__dict__["_settings"] = self._settings + 1

    def _engine_on(self, device: torch.device) -> Engine:
        """Julia's solves on the CPU: with ``"auto"`` states elsewhere go to the embedded engine."""
        return get_engine("torch") if self._auto and device.type != "cpu" else self.engine

    @property
    def tspan(self) -> tuple[float, float]:
        """Start and end, as they are now where they are tensors."""
        if self.span.numbers is not None:
            start, end = self.span.numbers
            return start, end
        return check_tspan(self.span)

    @tspan.setter
    def tspan(self, tspan: Sequence[float | torch.Tensor] | torch.Tensor) -> None:
        check_tspan(tspan)
        self.span = Moments(tspan)

    def _times(self, saveat: Sequence[float] | torch.Tensor | None, dtype: torch.dtype) -> Times:
        check_resolved(self.abstol, self.reltol, dtype)
        tspan = _rounded(self.tspan, dtype)
        moments = self.saveat if saveat is None else Moments(saveat)
        start, end = self.span.tensors
        if moments is None:
            return Times(tspan, (tspan[1],), (0,), saved=False, start=start, ends=(end,))
        check_saveat(moments, self.tspan)
        rounded = check_saveat([round_time(t, dtype) for t in moments], tspan)
        assert rounded is not None
        asked = tuple(dict.fromkeys(rounded))
        rows = tuple(asked.index(t) for t in rounded)
        return Times(tspan, asked, rows, saved=True, start=start, ends=moments.tensors)

    def _problem(
        self,
        u0: torch.Tensor,
        times: Times,
        sides: Sequence[torch.nn.Module],
        named: Sequence[torch.Tensor],
        noise: BrownianPath | None = None,
    ) -> Problem:
        """The problem of the solved tensor ``u0``; ``sides`` are the dynamics, or drift and diffusion, and
        ``named`` their modules' parameters and what is given beside.
        """
        known = list({id(p): p for p in (*named, *self.closed_over)}.values())
        check_parameters(known, u0)
        if self._looked_at != self._settings:
            check_running_statistics(sides)
            self.__dict__["_looked_at"] = self._settings
        check_products(self.reltol, u0.device, u0.dtype, lambda: any(map(convolves, sides)))
        wanted = {id(p): p for p in known if p.requires_grad or is_transformed(p)}
        called: list[torch.nn.Module] = []
        for side in sides:
            if is_described(side):
                of_layers = side.f if isinstance(side, WithInputs) else side
                assert isinstance(of_layers, LayerDynamics)
                of_layers.check(u0)
                called.append(side)
            elif isinstance(side, JuliaModel):
                side.check(u0)
                called.append(side.drawn())
            else:
                observed = observe(side, times.tspan[0], u0, known)
                check_parameters(observed.reached, u0)
                wanted |= {id(p): p for p in observed.reached}
                called.append(observed)
        return Problem(
            f=called[0],
            params=tuple(wanted.values()),
            tspan=times.tspan,
            solver=self.solver,
            abstol=self.abstol,
            reltol=self.reltol,
            maxiters=self.maxiters,
            dt=self._first_dt(times.tspan),
            adaptive=self.adaptive,
            jacobian=self.jacobian,
            g=called[1] if len(called) > 1 else None,
            noise=noise,
            steps=in_dtype(self.step_options, u0.dtype),
            progress=self.progress,
            solve_options=self.solve_options,
            compiled=self.compiled,
        )

    def _first_dt(self, tspan: tuple[float, float]) -> float | None:
        """The first step, or the fixed one; None where it is automatic."""
        if self.first_step is None or not self.training:
            return self.dt
        return self.first_step.within(tspan, self.step_options.dtmin, self.step_options.dtmax)

    def _observe(self, solved: Trajectory | Steps) -> None:
        """After a solve."""
        if self.first_step is not None and self.training:
            k = METHODS[self.solver].adaptive_order + 1
            self.first_step.observe(float(solved.dt[0]), float(solved.EEst[0]), k)

    def _solve(
        self,
        problem: Problem,
        u0: torch.Tensor,
        times: Times,
        unpack: Callable[[torch.Tensor], Any],
        *,
        dense: bool,
        regularize: bool | None,
        noise: BrownianPath | None = None,
        events: Events | None = None,
    ) -> Solution:
        """Solve, regularized where that is asked for; ``unpack`` gives the user's states."""
        check_flag("regularize", regularize)
        check_flag("dense", dense)
        regularizer = self.regularizer if (self.training if regularize is None else regularize) else None
        if regularize and regularizer is None:
            raise OptionError("regularize=True, but the module was built without a regularizer")
        if regularizer is not None and vmapping():
            raise OptionError(
                "a regularizer inside torch.func.vmap: its draws would be shared by all samples. Give "
                "regularize=False, or solve the samples as one batch"
            )
        if isinstance(regularizer, Integral) and times.want_gradients:
            raise OptionError(
                f"{type(regularizer).__name__} with times that want a gradient: its integral has none by the "
                "ends. Give tspan and saveat as numbers"
            )
        engine = self._engine_on(u0.device)
        check_written(engine, problem.f, problem.g)
        if times.start is not None:
            u0 = from_time(u0, times.start, problem)

        def run(problem: Problem, u0: torch.Tensor, asked: Sequence[float], watch: Watch | None) -> Piece:
            wants_gradient = torch.is_grad_enabled() and (u0.requires_grad or bool(problem.params))
            keep = engine.keep_for(problem, self.adjoint, self.checkpoints) if wants_gradient else Keep()
            if wants_gradient and self.keep_stages:
                problem = dataclasses.replace(problem, keep_stages=self.keep_stages)
            if dense:
                keep = dataclasses.replace(keep, states="all", stages=True)
            solve = Solve(engine, problem, asked, self.adjoint, keep, watch=watch)
            if regularizer is None:
                states = solve.run(u0)[0]  # after which its times are as far as it came
                return Piece(solve, states, solve.times)
            done = regularizer.solve(solve, u0)
            return Piece(solve, done.states, done.times, done.value, done.calls)

        solved = solve_in_pieces(problem, u0, times.asked, run, events)
        self._observe(solved.pieces[0].solve.trajectory)
        rows = [row for row in times.rows if row < len(solved.times) - solved.ended]
        every = [
            solved.states[row]
            if time is None
            else to_time(solved.states[row], time, solved.times[row], problem)
            for row, time in zip(rows, times.ends, strict=False)
        ]
        if solved.ended:
            rows.append(len(solved.times) - 1)
            every.append(solved.states[-1])

        def interpolant(t: float) -> Any:
            try:
                t = float(t)
            except NOT_NUMBERS as error:
                raise SaveAtError(
                    f"a solution is called with one time, not with a {type(t).__name__}"
                ) from error
            piece = solved.piece_at(t)
            if piece is None:
                span = solved.pieces[0].solve.problem.tspan[0], solved.pieces[-1].end
                raise SaveAtError(f"t = {t} is outside tspan {span}")
            solve = piece.solve
            return unpack(solve.read(engine.interpolate(solve.problem, solve.trajectory, t)))

        solution = Solution(
            u=unpack(torch.stack(every) if times.saved else every[-1]),
            t=np.array([solved.times[row] for row in rows]),
            regularization=None if regularizer is None else joined(regularizer, solved.regularized),
            stats=solved.stats,
            steps=solved.steps,
            engine=engine.name,
            interpolant=interpolant if dense else None,
            noise=noise,
            events=tuple(solved.occurrences),
            sol=solved.pieces[0].solve.trajectory.sol if len(solved.pieces) == 1 else None,
        )
        of_replica = getattr(self, "_is_replica", False)  # torch.nn.DataParallel's mark
        return cast(Solution, OfReplica(solution)) if of_replica else solution
