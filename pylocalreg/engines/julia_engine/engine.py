"""The contract of engines/base.py, kept by Julia."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pylocalreg.dynamics import LayerDynamics, WithInputs
from pylocalreg.engines.algorithm import Sensitivity
from pylocalreg.engines.base import (
    Adjoint,
    Calls,
    Gradient,
    Jacobian,
    Keep,
    Problem,
    Quantity,
    StepAsked,
    StepCotangent,
    Trajectory,
)
from pylocalreg.engines.julia_engine.dynamics import Model, model_of
from pylocalreg.engines.julia_engine.refusals import refusal
from pylocalreg.engines.julia_engine.stack import (
    formula_of,
    sensitivity_of,
    solve_options_of,
    stack_algorithm,
)
from pylocalreg.engines.julia_engine.start import Julia, start, why_no_cuda, why_unavailable
from pylocalreg.engines.julia_engine.streams import in_order
from pylocalreg.engines.julia_engine.tableaus import inside_weights, needs_dZ, tableau_of
from pylocalreg.engines.methods import (
    ADJOINTS,
    METHODS,
    SDE_METHODS,
    check_choices,
    check_estimate,
    check_options,
    is_stochastic,
    keep_for,
)
from pylocalreg.errors import (
    DeviceError,
    DoubleBackwardError,
    EngineUnavailableError,
    NonFiniteError,
    OptionError,
    ShapeError,
    StepLimitError,
    StepUnderflowError,
)
from pylocalreg.progress import following


@dataclass
class JuliaTrajectory(Trajectory):
    """A trajectory whose states and dense output stay in Julia until they are asked for."""

    problem: Problem | None = None
    model: Model | None = None
    handle: Any = None
    run: Any = None
    checkpointed: bool = False


class _States(dict[int, torch.Tensor]):
    """The states steps start from, brought over when they are asked for."""

    def __init__(self, julia: Julia, run: Any) -> None:
        self._julia, self._run = julia, run

    def __missing__(self, index: int) -> torch.Tensor:
        state: torch.Tensor = self._julia.call("state", self._run, index)
        self[index] = state
        return state


class JuliaEngine:
    """Solves by the SciML stack: OrdinaryDiffEq, StochasticDiffEq and SciMLSensitivity, in this process."""

    name = "julia"

    def __init__(self) -> None:
        reason = why_unavailable()
        if reason is not None:
            raise EngineUnavailableError(f"engine='julia': {reason}")

    def check(
        self,
        solver: str,
        adjoint: str,
        adaptive: bool | None = None,
        checkpoints: int | None = None,
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
    ) -> bool:
        if isinstance(adjoint, Sensitivity):
            sensitivity_of(start(), adjoint)
        named = "interpolating" if isinstance(adjoint, Sensitivity) else adjoint
        if solver in METHODS or not isinstance(solver, str):
            adaptive = check_options(
                "Julia engine", solver, named, adaptive, checkpoints, jacobian, stochastic
            )
        else:
            adaptive = self._check_algorithm(solver, named, adaptive, jacobian, stochastic)
        if checkpoints is not None and isinstance(adjoint, Sensitivity):
            raise OptionError(
                f"checkpoints = {checkpoints}: they go with the adjoints {sorted(ADJOINTS)}; leave them out "
                f"with adjoint={str(adjoint)!r}"
            )
        return adaptive

    def _check_algorithm(
        self, solver: str, adjoint: str, adaptive: bool | None, jacobian: Jacobian | None, stochastic: bool
    ) -> bool:
        """As `check`, of an algorithm that the stack alone has."""
        check_choices("Julia engine", adjoint, jacobian)
        julia = start()
        algorithm = stack_algorithm(julia, solver)
        if algorithm.stochastic != stochastic:
            kind, other = ("ODE", "SDE") if stochastic else ("SDE", "ODE")
            raise OptionError(f"solver {solver!r} solves {kind}s: take Neural{kind}, or a solver of {other}s")
        if adjoint == "discrete" and not stochastic and not formula_of(julia, solver).dense:
            raise OptionError(
                f"adjoint='discrete': {solver}'s steps can not be taken again one by one (they are no "
                "explicit, Rosenbrock or diagonally implicit Runge-Kutta steps that its coefficients alone "
                "make); take adjoint='interpolating' or 'gauss'"
            )
        if adaptive and not algorithm.adaptive:
            raise OptionError(
                f"adaptive=True: {solver} has no error estimate to choose its steps by; give dt and leave "
                "adaptive out"
            )
        if jacobian is not None and not algorithm.implicit:
            raise OptionError(f"jacobian={jacobian!r}: {solver} takes no Jacobian; leave it out")
        return algorithm.adaptive if adaptive is None else adaptive

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        if solver in METHODS:
            return check_estimate(solver, quantity)
        julia = start()
        if quantity == "error" and stack_algorithm(julia, solver).adaptive:
            if formula_of(julia, solver).handle is not None:
                return None
            reason = f"no gradient of the error estimate of {solver}'s steps is known"
        else:
            reason = f"{solver} has no {quantity} estimate"
        raise OptionError(
            f"{reason}: LocalRegularizer(estimator='Tsit5') takes that of a step of another method in its "
            "place, from the same state and of the same size"
        )

    def is_stochastic(self, solver: str) -> bool:
        return is_stochastic(solver) if solver in METHODS else stack_algorithm(start(), solver).stochastic

    def keep_for(self, problem: Problem, adjoint: Adjoint, checkpoints: int | None) -> Keep:
        solver = problem.solver
        if solver not in METHODS and self.is_stochastic(solver):
            raise OptionError(
                f"solver {solver!r}: of SDEs the Julia engine has gradients of {sorted(SDE_METHODS)}; take "
                "one of these, or solve under torch.no_grad()"
            )
        if isinstance(adjoint, Sensitivity):
            return _keep_for_sensitivity(problem, adjoint)
        keep = keep_for(adjoint, checkpoints)
        if checkpoints is not None:
            # a continuous adjoint's checkpoints are the stack's own
            keep = replace(keep, stages=adjoint != "discrete")
        return replace(keep, restarts=adjoint == "backsolve")

    def solve(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep) -> Trajectory:
        julia, model, handle = self.begin(problem, u0)
        spread, checkpoints = 0, list[float]()
        if not isinstance(keep.states, str):
            if keep.stages:
                begin, end = problem.tspan
                checkpoints = [begin + (end - begin) * i / keep.states for i in range(keep.states + 1)]
            else:
                spread = keep.states
        trajectory = JuliaTrajectory(
            problem=problem, model=model, handle=handle, checkpointed=bool(checkpoints)
        )
        offer = None
        if keep.sample is not None and not keep.stiffness:
            offer = _Offer(keep)
        with following(problem) as update, self.inside(julia, problem, u0.device):
            run, t, dt, EEst, nreject, nf, calls, of_diffusion, outputs = julia.call(
                "solve",
                handle,
                _plain(u0),
                list(times),
                keep.states == "all" or keep.stiffness,
                spread,
                keep.stages and keep.states == "all",
                checkpoints,
                list(times) if keep.restarts else [],
                offer,
                update or _breathe,
                update is not None,
            )
            trajectory.run = run
            trajectory.t, trajectory.dt, trajectory.EEst = list(t), list(dt), list(EEst)
            trajectory.nreject = int(nreject)
            trajectory.nf, trajectory.calls = int(nf), Calls(int(calls), int(of_diffusion))
            trajectory.outputs = [u.view(u0.shape) for u in outputs]
            trajectory.u = _States(julia, run)
            if keep.stiffness:
                for i in range(trajectory.naccept):
                    trajectory.stiffness.append(float(julia.call("stiffness", handle, run, i)))
                    if keep.sample is not None:
                        keep.sample.offer(i, trajectory.stiffness[i])
        return trajectory

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        assert isinstance(trajectory, JuliaTrajectory)
        assert trajectory.model is not None
        julia = start()
        if problem.g is not None:  # linear between the states of the steps, as in the stack
            i = trajectory.step_at(time)
            u, u_new = trajectory.u[i], trajectory.u[i + 1]
            return torch.lerp(u, u_new, (time - trajectory.t[i]) / trajectory.dt[i])
        with self.inside(julia, problem, trajectory.model.p.device):
            at_time: torch.Tensor = julia.call("interpolate", trajectory.run, time)
        return at_time

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        assert isinstance(trajectory, JuliaTrajectory)
        assert trajectory.model is not None
        julia, handle, model = start(), trajectory.handle, trajectory.model
        if problem is not trajectory.problem:  # it holds other tensors than when it was solved
            julia, model, handle = self.begin(problem, trajectory.u[trajectory.naccept])
        with torch.no_grad(), self.inside(julia, problem, model.p.device):
            if adjoint == "discrete":
                by_u0, by_p = self._replay(julia, handle, problem, trajectory, cotangents, steps)
            else:
                by_u0, by_p = self._continuous(julia, handle, problem, trajectory, adjoint, cotangents, steps)
        return by_u0, model.split(by_p)

    def _replay(
        self,
        julia: Julia,
        handle: Any,
        problem: Problem,
        trajectory: JuliaTrajectory,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        at_end: torch.Tensor | None = None
        inside: list[tuple[int, list[float], torch.Tensor]] = []
        starts = {t: i for i, t in enumerate(trajectory.t)}
        for time, cotangent in cotangents:
            if time == problem.tspan[1]:
                at_end = cotangent if at_end is None else at_end + cotangent
                continue
            index = starts.get(time, trajectory.step_at(time))
            theta = (time - trajectory.t[index]) / trajectory.dt[index]
            inside.append((index, inside_weights(problem.solver, theta), _plain(cotangent)))
        end = None if at_end is None else _plain(at_end)
        by_u0, by_p = julia.call(
            "replay", handle, trajectory.run, inside, end, [_row(step) for step in steps]
        )
        return by_u0, by_p

    def _continuous(
        self,
        julia: Julia,
        handle: Any,
        problem: Problem,
        trajectory: JuliaTrajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        at: dict[float, torch.Tensor] = {}
        of_steps: list[torch.Tensor] = []

        def add(time: float, cotangent: torch.Tensor) -> None:
            at[time] = at[time] + cotangent if time in at else cotangent

        for time, cotangent in cotangents:
            add(time, cotangent)
        for step in steps:
            by_states, by_p = julia.call("reverse_estimate", handle, trajectory.run, _row(step))
            of_steps.append(by_p)
            if step.through_state:
                for index, by_u in by_states:
                    add(trajectory.t[index], by_u)
        begin = problem.tspan[0]
        last = max(at, key=lambda time: abs(time - begin), default=begin)
        for stop in problem.steps.tstops:  # where the dynamics jump, the adjoint's solve and integrals stop
            if min(begin, last) < stop < max(begin, last):
                add(stop, torch.zeros_like(at[last]))
        at_start = at.pop(begin, None)
        times = sorted(at, reverse=problem.tspan[1] < problem.tspan[0])
        if times:
            by_u0, by_p = julia.call(
                "pull_back",
                handle,
                trajectory.run,
                sensitivity_of(julia, adjoint) if isinstance(adjoint, Sensitivity) else adjoint,
                trajectory.checkpointed,
                times,
                [_plain(at[t]) for t in times],
            )
        else:
            by_u0 = torch.zeros_like(trajectory.u[trajectory.naccept])
            by_p = torch.zeros_like(of_steps[0]) if of_steps else torch.zeros(0)
        if at_start is not None:
            by_u0 = by_u0 + at_start
        return by_u0, sum(of_steps, by_p)

    def retake(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        u0: torch.Tensor,
        times: Sequence[float],
        steps: Sequence[StepAsked],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        raise DoubleBackwardError(
            "the Julia engine gives first derivatives only: for second ones take engine='torch' with "
            "adjoint='discrete', or differentiate local_error, which has derivatives of every order"
        )

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
        julia, _, handle = self.begin(problem, u, at=t)
        with self.inside(julia, problem, u.device):
            dt, nf, ng = julia.call("initial_step", handle, _plain(u))
        return float(dt), Calls(int(nf), int(ng))

    def estimate(
        self, problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, Calls]:
        asked = _Asked(self, problem, quantity, t, dt, gradient)
        value: torch.Tensor = _Estimate.apply(asked, u, *problem.params)  # type: ignore[no-untyped-call]
        return value, asked.calls

    def begin(self, problem: Problem, u0: torch.Tensor, at: float | None = None) -> tuple[Julia, Model, Any]:
        """The problem in Julia; ``at`` is where it starts, if not with its span."""
        _check_device(u0.device, problem.solver)
        julia = start()
        begin = problem.tspan[0] if at is None else at
        path = None
        if problem.noise is not None:
            path = _Increments(problem)
        dtype = str(u0.dtype).removeprefix("torch.")
        options = (
            str(problem.solver),
            begin,
            problem.tspan[1],
            problem.abstol,
            problem.reltol,
            problem.dt or 0.0,
            problem.adaptive,
            problem.maxiters,
            problem.steps.dtmin or 0.0,
            problem.steps.dtmax or 0.0,
            list(problem.steps.tstops),
            list(problem.steps.constants.items()),
            None if problem.solver in METHODS else stack_algorithm(julia, problem.solver).handle,
            solve_options_of(julia, problem.solve_options) if problem.solve_options else None,
        )
        tableau = tableau_of(julia, problem.solver, dtype)
        per_sample = problem.jacobian == "per_sample"
        with in_order(julia, u0.device):
            model = model_of(julia, problem, u0)
            handle = julia.call(
                "problem", dtype, model.f, model.g, model.p, per_sample, options, tableau, path
            )
        return julia, model, handle

    @contextmanager
    def inside(self, julia: Julia, problem: Problem, device: torch.device) -> Iterator[None]:
        """Where Julia computes: a GPU's work in order, and Julia's exceptions as pylocalreg's.

        Julia's own text and trace stand behind them.
        """
        try:
            with in_order(julia, device):
                yield
        except julia.juliacall.JuliaError as error:
            failure = julia.call("failure", error.exception)
            if failure is None:
                if "DimensionMismatch" in str(error):
                    raise ShapeError(f"the dynamics do not fit the state: {error}") from error
                raise
            if failure[0] == "refusal":
                names = ", ".join(name for name, _ in problem.solve_options)
                options = f" with solve_options {names}" if names else ""
                raise refusal(f"solver {str(problem.solver)!r}{options}", failure) from error
            kind, t, dt, EEst, naccept, nreject = failure
            where = f"at t = {t:.6g} after {naccept} accepted and {nreject} rejected steps"
            if kind == "step_limit":
                raise StepLimitError(
                    f"maxiters = {problem.maxiters} steps ended {where} of tspan {problem.tspan}: loosen "
                    f"abstol = {problem.abstol:g} and reltol = {problem.reltol:g}, raise maxiters, or "
                    "regularize the dynamics"
                ) from error
            dtmin = problem.steps.dtmin
            if kind == "step_underflow" and dtmin is not None and abs(dt) <= dtmin:
                raise StepUnderflowError(
                    f"dt = {dt:.3g} is not above dtmin = {dtmin:g} {where} (EEst = {EEst:.3g}): loosen the "
                    "tolerances, lower dtmin, or leave it out"
                ) from error
            if kind == "step_underflow":
                raise StepUnderflowError(
                    f"dt = {dt:.3g} no longer moves the time {where} (EEst = {EEst:.3g}): the dynamics are "
                    "discontinuous, too stiff for this solver, or the tolerances are finer than the dtype "
                    "resolves"
                ) from error
            if kind == "no_convergence":
                raise StepUnderflowError(
                    f"the implicit stages do not converge {where} (dt = {dt:.3g}): give a smaller dt, or "
                    "check the dynamics"
                ) from error
            raise NonFiniteError(
                f"the dynamics or the state becomes NaN or infinite {where} (dt = {dt:.3g}): check the "
                "parameters and the input; the solution may blow up here"
            ) from error


def _check_device(device: torch.device, solver: str) -> None:
    if device.type == "cpu":
        return
    if device.type != "cuda":
        reason = "Julia solves on the CPU and on CUDA"
    elif solver not in METHODS or METHODS[solver].takes_jacobian:
        reason = f"{solver} solves on the CPU in Julia"
    elif (missing := why_no_cuda()) is not None:
        reason = missing
    else:
        return
    raise DeviceError(f"engine='julia', the state is on {device}: {reason}. engine='torch' solves there")


def _keep_for_sensitivity(problem: Problem, adjoint: Sensitivity) -> Keep:
    f = problem.f.f if isinstance(problem.f, WithInputs) else problem.f
    if adjoint.traces and not isinstance(f, LayerDynamics):
        raise OptionError(
            f"adjoint={str(adjoint)!r} traces the dynamics in Julia, which a PyTorch function can not be: "
            "give them as layers, or take autojacvec='ZygoteVJP', which pulls them back by PyTorch"
        )
    if adjoint.name == "ForwardDiffSensitivity":
        return Keep("end")
    if adjoint.name == "BacksolveAdjoint":
        return Keep("end", restarts=True)
    return Keep("all", stages=True)


def _plain(u: torch.Tensor) -> torch.Tensor:
    """As it crosses: contiguous, without a graph."""
    return u.detach().contiguous()


def _breathe() -> None:
    """Called once a step in place of a bar: Python raises KeyboardInterrupt here, and other threads run."""


def _row(step: StepCotangent) -> tuple[int, float, str, bool, bool]:
    return step.index, float(step.cotangent), step.quantity, step.gradient == "frozen", step.through_state


class _Offer:
    """Tells the sample of each accepted step, and Julia which states to keep."""

    def __init__(self, keep: Keep) -> None:
        assert keep.sample is not None
        self.sample = keep.sample

    def __call__(self, index: int, t: float, dt: float, EEst: float) -> list[int] | None:
        if not self.sample.offer(index, EEst * abs(dt)):
            return None
        return list(self.sample.weights)


class _Increments:
    """What the problem's path does over a step, written into Julia's arrays."""

    def __init__(self, problem: Problem) -> None:
        assert problem.noise is not None
        self.noise, self.wants_dZ = problem.noise, needs_dZ(problem.solver)

    def __call__(self, dW: torch.Tensor, dZ: torch.Tensor, t: float, t_new: float) -> None:
        dW.copy_(self.noise.dW(t, t_new))
        if self.wants_dZ:
            dZ.copy_(self.noise.dZ(t, t_new))


@dataclass
class _Asked:
    """An estimate that is asked for, and, once it was taken, the calls it took."""

    engine: JuliaEngine
    problem: Problem
    quantity: Quantity
    t: float
    dt: float
    gradient: Gradient
    calls: Calls = field(default_factory=Calls)


class _Estimate(torch.autograd.Function):
    """R or S of one step; its gradient is Julia's."""

    @staticmethod
    def forward(ctx: Any, asked: _Asked, u: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        julia, model, handle = asked.engine.begin(asked.problem, u)
        with asked.engine.inside(julia, asked.problem, u.device):
            value, back, nf, ng = julia.call(
                "estimate", handle, asked.quantity, asked.t, _plain(u), asked.dt, asked.gradient == "frozen"
            )
        asked.calls = Calls(int(nf), int(ng))
        ctx.back, ctx.model, ctx.julia, ctx.asked = back, model, julia, asked
        ctx.save_for_backward(u, *params)  # refuses tensors that were written to since
        return u.new_full((), float(value))

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "the Julia engine's estimates have first derivatives only: call backward without "
                "create_graph=True, or take engine='torch'"
            )
        u, *_ = ctx.saved_tensors
        with ctx.asked.engine.inside(ctx.julia, ctx.asked.problem, u.device):
            by_u, by_p = ctx.julia.apply(ctx.back, float(cotangent))
        return None, by_u.view(u.shape) if ctx.needs_input_grad[1] else None, *ctx.model.split(by_p)
