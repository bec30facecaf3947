"""The module a user builds a model from."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from pylocalreg.checks import (
    check_dt,
    check_maxiters,
    check_parameters,
    check_resolved,
    check_saveat,
    check_state,
    check_tolerance,
    check_tspan,
)
from pylocalreg.dynamics import Layers, as_module
from pylocalreg.engines import Engine, get_engine
from pylocalreg.engines.autograd import RecordedStep, Solve
from pylocalreg.engines.base import Adjoint, Dynamics, Keep, Problem, Trajectory
from pylocalreg.errors import OptionError, SaveAtError
from pylocalreg.regularizers import LocalRegularizer
from pylocalreg.solution import Solution


class NeuralODE(torch.nn.Module):
    """du/dt = f(t, u), solved over ``tspan`` from the state it is called with.

    Args:
        dynamics: a layer description (`Chain`, `TimeDependent`), a ``torch.nn.Module`` or any callable
            ``f(t, u)`` with ``t`` a scalar tensor, that gives du/dt of ``u``'s shape, dtype and device.
        tspan: start and end; an end before the start solves backwards in time.
        solver: the method by the stack's name.
        abstol, reltol: tolerances of the error norm rms(e / (abstol + max(|u|, |u_new|) reltol)), taken
            over every element of the batch.
        adjoint: ``"discrete"``: the exact gradient of the steps taken; ``"interpolating"``: the adjoint
            equation solved backwards, right to about the tolerances.
        regularizer: what ``solution.regularization`` is; None for nothing.
        saveat: times of the states in ``solution.u``; by default the end of ``tspan`` alone.
        engine: ``"auto"``, ``"torch"`` or ``"julia"``.
        dt: the first step; automatic by default.
        maxiters: steps tried before `StepLimitError`.
        params: tensors a plain callable closes over that want a gradient. A module's parameters are found.

    Raises:
        TimeSpanError, ToleranceError, SaveAtError, OptionError, EngineUnavailableError: at construction.
    """

    def __init__(
        self,
        dynamics: Layers | torch.nn.Module | Dynamics,
        tspan: Sequence[float] = (0.0, 1.0),
        *,
        solver: str = "Tsit5",
        abstol: float = 1e-6,
        reltol: float = 1e-6,
        adjoint: Adjoint = "discrete",
        regularizer: LocalRegularizer | None = None,
        saveat: Sequence[float] | None = None,
        engine: str = "auto",
        dt: float | None = None,
        maxiters: int = 1_000_000,
        params: Sequence[torch.Tensor] = (),
    ) -> None:
        super().__init__()
        self.tspan = check_tspan(tspan)
        self.abstol = check_tolerance("abstol", abstol)
        self.reltol = check_tolerance("reltol", reltol)
        self.saveat = check_saveat(saveat, self.tspan)
        self.dt = check_dt(dt, self.tspan)
        self.maxiters = check_maxiters(maxiters)
        self.engine: Engine = get_engine(engine)
        self.engine.check(solver, adjoint)
        self.solver = solver
        self.adjoint: Adjoint = adjoint
        self.regularizer = regularizer
        self.closed_over = tuple(params)
        self.dynamics = as_module(dynamics)

    def extra_repr(self) -> str:
        return (
            f"tspan={self.tspan}, solver={self.solver!r}, abstol={self.abstol:g}, reltol={self.reltol:g}, "
            f"adjoint={self.adjoint!r}, engine={self.engine.name!r}, regularizer={self.regularizer}"
        )

    def forward(
        self,
        u0: torch.Tensor,
        *,
        saveat: Sequence[float] | None = None,
        dense: bool = False,
        regularize: bool | None = None,
    ) -> Solution:
        """Solve from ``u0``, a float32 or float64 tensor of any shape.

        Args:
            saveat: in place of the module's own.
            dense: keep every stage, so that the solution can be called at any time.
            regularize: whether to compute the regularizer; in training mode only by default.

        Raises:
            ShapeError, DtypeError, DeviceError, ToleranceError: before the solve.
            NonFiniteError, StepUnderflowError, StepLimitError: where the solve can not go on.
        """
        check_state(u0)
        check_resolved(self.reltol, u0.dtype)
        round_time = partial(_round, dtype=u0.dtype)
        tspan = check_tspan([round_time(t) for t in self.tspan])
        asked = self.saveat if saveat is None else check_saveat(saveat, self.tspan)
        times = check_saveat([round_time(t) for t in asked], tspan) if asked else (tspan[1],)
        assert times is not None
        own: dict[str, torch.Tensor] = dict(self.dynamics.named_parameters())
        every_param = tuple({id(p): p for p in (*own.values(), *self.closed_over)}.values())
        check_parameters(every_param, u0)
        params = tuple(p for p in every_param if p.requires_grad)
        problem = Problem(
            self.dynamics, params, tspan, self.solver, self.abstol, self.reltol, self.maxiters, self.dt
        )
        regularizer = self.regularizer if (self.training if regularize is None else regularize) else None
        if regularize and regularizer is None:
            raise OptionError("regularize=True, but the module was built without a regularizer")

        wants_gradient = torch.is_grad_enabled() and (u0.requires_grad or bool(params))
        solve = Solve(
            self.engine, problem, own, times, self.adjoint, self._keep(wants_gradient, dense, regularizer)
        )
        u0 = u0.contiguous()
        if regularizer is None:
            states, regularization, nfe_regularizer = solve.run(u0)[0], None, 0
        elif regularizer.sampling == "unbiased":
            tau = round_time(tspan[0] + (tspan[1] - tspan[0]) * regularizer.draw())
            states, regularization, nfe_regularizer = self._at_any_time(solve, u0, regularizer, tau)
        else:
            states, regularization, nfe_regularizer = self._at_a_step(solve, u0, regularizer)

        trajectory = solve.trajectory
        return Solution(
            u=torch.stack(states) if asked else states[0],
            t=np.array(times),
            regularization=regularization,
            stats=trajectory.stats(nfe_regularizer),
            steps=trajectory.steps(),
            engine=self.engine.name,
            interpolant=partial(_interpolate, self.engine, problem, trajectory) if dense else None,
        )

    def _keep(self, wants_gradient: bool, dense: bool, regularizer: LocalRegularizer | None) -> Keep:
        if dense:
            return "stages"
        if wants_gradient:
            return self.engine.keep_for(self.adjoint)
        needs_state = regularizer and regularizer.sampling == "biased" and not regularizer.reads_record
        return "states" if needs_state else "nothing"

    def _at_any_time(
        self, solve: Solve, u0: torch.Tensor, regularizer: LocalRegularizer, tau: float
    ) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """The states asked for, R of a new step from (tau, u(tau)), and the calls of f it took."""
        start, end = solve.problem.tspan
        asked = list(solve.times)
        place = sum(1 for t in asked if (t < tau if end > start else t > tau))
        solve.times = [*asked[:place], tau, *asked[place:]]
        states, _, _ = solve.run(u0)
        u_tau = states.pop(place)
        dt = solve.trajectory.dt[solve.trajectory.step_at(tau)]
        return states, *self._new_step(solve.problem, regularizer, tau, u_tau, dt)

    def _at_a_step(
        self, solve: Solve, u0: torch.Tensor, regularizer: LocalRegularizer
    ) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """The states asked for, R of the accepted step that was drawn, and the calls of f it took."""
        solve.recorded = RecordedStep(regularizer.draw(), regularizer.gradient, regularizer.through_state)
        solve.state_at_recorded = not regularizer.reads_record
        states, value, u_tau = solve.run(u0)
        if regularizer.reads_record:
            return states, value, 0
        i = solve.recorded.index
        t, dt = solve.trajectory.t[i], solve.trajectory.dt[i]
        return states, *self._new_step(solve.problem, regularizer, t, u_tau, dt)

    def _new_step(
        self, problem: Problem, regularizer: LocalRegularizer, tau: float, u_tau: torch.Tensor, dt: float
    ) -> tuple[torch.Tensor, int]:
        if not regularizer.through_state:
            u_tau = u_tau.detach()
        nfe = 0
        if regularizer.step == "initial":
            dt, nfe = self.engine.initial_step(problem, tau, u_tau.detach())
        remaining = problem.tspan[1] - tau
        dt = remaining if abs(remaining) < abs(dt) else dt
        value, calls = self.engine.local_error(problem, tau, u_tau, dt, regularizer.gradient)
        return value, nfe + calls


def _round(t: float, dtype: torch.dtype) -> float:
    """The time as the state's dtype holds it: float32 states are solved in float32 time, as in the stack."""
    return float(np.float32(t)) if dtype == torch.float32 else t


def _interpolate(engine: Engine, problem: Problem, trajectory: Trajectory, t: float) -> torch.Tensor:
    start, end = problem.tspan
    if not min(start, end) <= t <= max(start, end):
        raise SaveAtError(f"t = {t} is outside tspan {problem.tspan}")
    return engine.interpolate(problem, trajectory, t)
