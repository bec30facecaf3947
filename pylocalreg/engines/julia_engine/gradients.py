"""One step's estimate, and gradients of solves and of estimates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pylocalreg.engines.algorithm import Sensitivity
from pylocalreg.engines.base import Adjoint, Calls, Gradient, Problem, Quantity, StepCotangent
from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.failures import inside
from pylocalreg.engines.julia_engine.problems import begin
from pylocalreg.engines.julia_engine.solves import JuliaTrajectory
from pylocalreg.engines.julia_engine.stack import sensitivity_of
from pylocalreg.engines.julia_engine.start import Julia, start
from pylocalreg.engines.julia_engine.streams import in_order
from pylocalreg.engines.julia_engine.tableaus import inside_weights
from pylocalreg.errors import DoubleBackwardError


def pull_back(
    problem: Problem,
    trajectory: JuliaTrajectory,
    adjoint: Adjoint,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    steps: Sequence[StepCotangent],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    assert trajectory.model is not None
    julia, handle, model = start(), trajectory.handle, trajectory.model
    if problem is not trajectory.problem:  # it holds other tensors than when it was solved
        julia, model, row = begin(problem, trajectory.u[trajectory.naccept])
        with in_order(julia, model.p.device):
            handle = julia.call("problem", row)
    with torch.no_grad(), inside(julia, problem, model.p.device):
        if adjoint == "discrete":
            by_u0, by_p = _replay(julia, handle, problem, trajectory, cotangents, steps)
        else:
            by_u0, by_p = _continuous(julia, handle, problem, trajectory, adjoint, cotangents, steps)
    return by_u0, model.split(by_p)


def _replay(
    julia: Julia,
    handle: Any,
    problem: Problem,
    trajectory: JuliaTrajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    steps: Sequence[StepCotangent],
) -> tuple[torch.Tensor, torch.Tensor]:
    at_end: torch.Tensor | None = None
    within: list[tuple[int, list[float], torch.Tensor]] = []
    starts = {t: i for i, t in enumerate(trajectory.t)}
    for time, cotangent in cotangents:
        if time == problem.tspan[1]:
            at_end = cotangent if at_end is None else at_end + cotangent
            continue
        index = starts.get(time, trajectory.step_at(time))
        theta = (time - trajectory.t[index]) / trajectory.dt[index]
        within.append((index, inside_weights(problem.solver, theta), plain(cotangent)))
    end = None if at_end is None else plain(at_end)
    by_u0, by_p = julia.call("replay", handle, trajectory.run, within, end, [_row(step) for step in steps])
    return by_u0, by_p


def _continuous(
    julia: Julia,
    handle: Any,
    problem: Problem,
    trajectory: JuliaTrajectory,
    adjoint: Adjoint,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    steps: Sequence[StepCotangent],
) -> tuple[torch.Tensor, torch.Tensor]:
    assert trajectory.model is not None
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
    start_of_span = problem.tspan[0]
    last = max(at, key=lambda time: abs(time - start_of_span), default=start_of_span)
    for stop in problem.steps.tstops:  # where the dynamics jump, the adjoint's solve and integrals stop
        if min(start_of_span, last) < stop < max(start_of_span, last):
            add(stop, torch.zeros_like(at[last]))
    at_start = at.pop(start_of_span, None)
    times = sorted(at, reverse=problem.tspan[1] < problem.tspan[0])
    if times:
        by_u0, by_p = julia.call(
            "pull_back",
            handle,
            trajectory.run,
            sensitivity_of(julia, adjoint) if isinstance(adjoint, Sensitivity) else adjoint,
            trajectory.checkpointed,
            times,
            [plain(at[t]) for t in times],
        )
    else:
        by_u0 = torch.zeros_like(trajectory.u[trajectory.naccept])
        by_p = torch.zeros_like(trajectory.model.p)
    if at_start is not None:
        by_u0 = by_u0 + at_start
    return by_u0, sum(of_steps, by_p)


def estimate(
    problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
) -> tuple[torch.Tensor, Calls]:
    asked = _Asked(problem, quantity, t, dt, gradient)
    value: torch.Tensor = _Estimate.apply(asked, u, *problem.params)  # type: ignore[no-untyped-call]
    return value, asked.calls


def _row(step: StepCotangent) -> tuple[int, float, str, bool, bool]:
    return step.index, float(step.cotangent), step.quantity, step.gradient == "frozen", step.through_state


@dataclass
class _Asked:
    """An estimate that is asked for, and, once it was taken, the calls it took."""

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
        julia, model, row = begin(asked.problem, u)
        with inside(julia, asked.problem, u.device):
            value, back, nf, ng = julia.call(
                "estimate", row, asked.quantity, asked.t, plain(u), asked.dt, asked.gradient == "frozen"
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
        with inside(ctx.julia, ctx.asked.problem, u.device):
            by_u, by_p = ctx.julia.apply(ctx.back, float(cotangent))
        return None, by_u.view(u.shape) if ctx.needs_input_grad[1] else None, *ctx.model.split(by_p)
