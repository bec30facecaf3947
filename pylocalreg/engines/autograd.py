"""The one autograd function that every engine shares: solve forward without a graph, pull back on demand."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pylocalreg.engines.base import Adjoint, Engine, Gradient, Keep, Problem, StepCotangent, Trajectory
from pylocalreg.errors import DoubleBackwardError


@dataclass
class RecordedStep:
    """The regularizer's wish for an accepted step: which one, as a fraction of their number, and how."""

    fraction: float
    gradient: Gradient
    through_state: bool
    index: int = -1

    def choose(self, naccept: int) -> None:
        self.index = min(int(self.fraction * naccept), naccept - 1)


@dataclass
class Solve:
    """One solve: what is asked, and, once it ran, its trajectory."""

    engine: Engine
    problem: Problem
    named_params: dict[str, torch.Tensor]
    times: Sequence[float]
    adjoint: Adjoint
    keep: Keep
    recorded: RecordedStep | None = None
    state_at_recorded: bool = False
    trajectory: Trajectory = field(default_factory=Trajectory)

    def run(self, u0: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """States at ``times``; then R of the recorded step and the state it starts from (both empty where
        not asked for). Differentiable by u0 and ``problem.params``.
        """
        value, state, *states = _Solve.apply(self, u0, *self.problem.params)  # type: ignore[no-untyped-call]
        return states, value, state

    def problem_as_solved(self) -> Problem:
        """The problem with the parameters it was solved with, should the module hold others by now.

        ``torch.func.functional_call`` lends a module its parameters for the forward call alone.
        """
        module = self.problem.f
        if not isinstance(module, torch.nn.Module) or all(
            p is self.named_params[name] for name, p in module.named_parameters()
        ):
            return self.problem

        def lent(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            k: torch.Tensor = torch.func.functional_call(module, self.named_params, (t, u))
            return k

        return dataclasses.replace(self.problem, f=lent)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, u0: torch.Tensor, *params: torch.Tensor) -> tuple[torch.Tensor, ...]:
        trajectory = solve.engine.solve(solve.problem, u0.detach(), solve.times, solve.keep)
        solve.trajectory = trajectory
        ctx.solve = solve
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u0, *params)  # refuses tensors that were written to since
        value, state = u0.new_empty(0), u0.new_empty(0)
        if solve.recorded is not None:
            solve.recorded.choose(trajectory.naccept)
            i = solve.recorded.index
            if solve.state_at_recorded:
                state = trajectory.u[i].clone()
            else:
                value = u0.new_full((), trajectory.EEst[i] * abs(trajectory.dt[i]))
        # an output kept by its own graph is a cycle that nothing frees
        outputs, trajectory.outputs = trajectory.outputs, []
        return value, state, *outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "the adjoints give first derivatives only: call backward without create_graph=True, or "
                "differentiate local_error, which has derivatives of every order"
            )
        solve: Solve = ctx.solve
        _, *params = ctx.saved_tensors
        by_value, by_state, *by_states = cotangents
        at_times = [(t, g) for t, g in zip(solve.times, by_states, strict=True) if g is not None]
        if not at_times and by_value is None and by_state is None:
            return (None, None, *(None for _ in params))
        step = None
        if solve.recorded is not None:
            recorded = solve.recorded
            if by_value is not None:
                step = StepCotangent(recorded.index, by_value, recorded.gradient, recorded.through_state)
            if by_state is not None:
                start, end = solve.problem.tspan
                at_times.append((solve.trajectory.t[recorded.index], by_state))
                at_times.sort(key=lambda pair: pair[0] if end > start else -pair[0])
        grad_u0, grad_params = solve.engine.pull_back(
            solve.problem_as_solved(), solve.trajectory, solve.adjoint, at_times, step
        )
        return (None, grad_u0 if ctx.needs_input_grad[1] else None, *grad_params)
