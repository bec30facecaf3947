"""What `NeuralODE` and `NeuralSDE` share: the options every solve has, and a solve run with them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import (
    check_count,
    check_dt,
    check_parameters,
    check_resolved,
    check_saveat,
    check_tolerance,
    check_tspan,
    round_time,
)
from pylocalreg.engines import Engine, engine_for, get_engine
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Calls, Jacobian, Keep, Problem
from pylocalreg.errors import OptionError, SaveAtError
from pylocalreg.progress import check_progress
from pylocalreg.regularizers import Regularizer
from pylocalreg.solution import Solution
from pylocalreg.step_options import Tstops, check_step_options, in_dtype


@dataclass(frozen=True)
class Times:
    """The span and the asked times as the state's dtype holds them; ``saved`` where ``saveat`` asked."""

    tspan: tuple[float, float]
    asked: tuple[float, ...]
    saved: bool


class NeuralDE(torch.nn.Module):
    """A differential equation's options, checked at construction."""

    def __init__(
        self,
        tspan: Sequence[float],
        *,
        solver: str,
        adjoint: Adjoint,
        abstol: float,
        reltol: float,
        checkpoints: int | None,
        regularizer: Regularizer | None,
        saveat: Sequence[float] | None,
        engine: str,
        dt: float | None,
        adaptive: bool | None,
        maxiters: int,
        params: Sequence[torch.Tensor],
        tstops: Tstops,
        progress: bool,
        step_options: dict[str, float | None],
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
    ) -> None:
        super().__init__()
        self.tspan = check_tspan(tspan)
        self.abstol = check_tolerance("abstol", abstol)
        self.reltol = check_tolerance("reltol", reltol)
        self.saveat = check_saveat(saveat, self.tspan)
        self.dt = check_dt(dt, self.tspan)
        self.maxiters = check_count("maxiters", maxiters)
        self.checkpoints = None if checkpoints is None else check_count("checkpoints", checkpoints)

        def check(engine: Engine) -> bool:
            adaptive_here = engine.check(solver, adjoint, adaptive, self.checkpoints, jacobian, stochastic)
            if regularizer is not None:
                regularizer.check(engine, solver, adjoint, self.tspan)
            return adaptive_here

        self.engine, self.adaptive = engine_for(engine, check)
        self._auto = engine == "auto"
        if not self.adaptive and dt is None:
            raise OptionError(f"solver={solver!r} takes fixed steps here: give their size, dt")
        self.step_options = check_step_options(
            self.tspan, self.dt, self.adaptive, tstops=tstops, **step_options
        )
        self.progress = check_progress(progress)
        self.solver = solver
        self.adjoint: Adjoint = adjoint
        self.regularizer = regularizer
        self.jacobian: Jacobian = jacobian or "system"
        self.closed_over = tuple(params)

    def _engine_on(self, device: torch.device) -> Engine:
        """Julia's solves on the CPU: with ``"auto"`` states elsewhere go to the embedded engine."""
        return get_engine("torch") if self._auto and device.type != "cpu" else self.engine

    def _times(self, saveat: Sequence[float] | None, dtype: torch.dtype) -> Times:
        check_resolved(self.abstol, self.reltol, dtype)
        tspan = check_tspan([round_time(t, dtype) for t in self.tspan])
        asked = self.saveat if saveat is None else check_saveat(saveat, self.tspan)
        if asked is None:
            return Times(tspan, (tspan[1],), saved=False)
        rounded = check_saveat([round_time(t, dtype) for t in asked], tspan)
        assert rounded is not None
        return Times(tspan, rounded, saved=True)

    def _problem(
        self, f: torch.nn.Module, u0: torch.Tensor, times: Times, parameters: Iterable[torch.Tensor]
    ) -> Problem:
        """The problem of the solved tensor ``u0``, without noise; ``parameters`` are the modules'."""
        every_param = tuple({id(p): p for p in (*parameters, *self.closed_over)}.values())
        check_parameters(every_param, u0)
        return Problem(
            f=f,
            params=tuple(p for p in every_param if p.requires_grad),
            tspan=times.tspan,
            solver=self.solver,
            abstol=self.abstol,
            reltol=self.reltol,
            maxiters=self.maxiters,
            dt=self.dt,
            adaptive=self.adaptive,
            jacobian=self.jacobian,
            steps=in_dtype(self.step_options, u0.dtype),
            progress=self.progress,
        )

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
    ) -> Solution:
        """Solve, regularized where that is asked for; ``unpack`` gives the user's states."""
        regularizer = self.regularizer if (self.training if regularize is None else regularize) else None
        if regularize and regularizer is None:
            raise OptionError("regularize=True, but the module was built without a regularizer")
        wants_gradient = torch.is_grad_enabled() and (u0.requires_grad or bool(problem.params))
        engine = self._engine_on(u0.device)
        keep = engine.keep_for(self.adjoint, self.checkpoints) if wants_gradient else Keep()
        if dense:
            keep = Keep("all", stages=True)
        solve = Solve(engine, problem, times.asked, self.adjoint, keep)
        if regularizer is None:
            states, regularization, calls, at = solve.run(u0)[0], None, Calls(), times.asked
        else:
            done = regularizer.solve(solve, u0)
            states, regularization, calls, at = done.states, done.value, done.calls, tuple(done.times)

        def interpolant(t: float) -> Any:
            start, end = solve.problem.tspan
            if not min(start, end) <= t <= max(start, end):
                raise SaveAtError(f"t = {t} is outside tspan {solve.problem.tspan}")
            return unpack(solve.read(engine.interpolate(solve.problem, solve.trajectory, t)))

        return Solution(
            u=unpack(torch.stack(states) if times.saved else states[0]),
            t=np.array(at),
            regularization=regularization,
            stats=solve.trajectory.stats(calls),
            steps=solve.trajectory.steps(),
            engine=engine.name,
            interpolant=interpolant if dense else None,
            noise=noise,
        )
