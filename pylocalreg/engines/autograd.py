"""The one autograd function that every engine shares: solve forward without a graph, pull back on demand."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pylocalreg.engines.base import (
    Adjoint,
    Dynamics,
    Engine,
    Gradient,
    Keep,
    Problem,
    Quantity,
    StepCotangent,
    StepSample,
    Trajectory,
)
from pylocalreg.errors import DoubleBackwardError


@dataclass(frozen=True)
class Recorded:
    """A regularizer's wish for accepted steps: the weighted sum of their estimates, or their states.

    ``sample`` None is every step, each with weight 1. ``states`` asks for the states the sampled steps start
    from, and for no sum.
    """

    quantity: Quantity = "error"
    gradient: Gradient = "exact"
    through_state: bool = False
    sample: StepSample | None = None
    states: bool = False

    def weights(self, trajectory: Trajectory) -> dict[int, float]:
        """The steps by index, in rising order, and their weights."""
        if self.sample is None:
            return dict.fromkeys(range(trajectory.naccept), 1.0)
        return dict(sorted(self.sample.weights.items()))


def _as_it_is(u: torch.Tensor) -> torch.Tensor:
    return u


@dataclass
class Solve:
    """One solve: what is asked, and, once it ran, its trajectory."""

    engine: Engine
    problem: Problem
    times: Sequence[float]
    adjoint: Adjoint
    keep: Keep
    recorded: Recorded | None = None
    read: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
    """The asked state from the solved one, should a regularizer have solved for more."""
    trajectory: Trajectory = field(default_factory=Trajectory)
    named_params: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def run(self, u0: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        """States at ``times``; then the sum of the recorded steps' estimates (empty where not asked for) and
        the states they start from, if asked for. Differentiable by u0 and ``problem.params``.
        """
        self.named_params = [_named(module) for module in (self.problem.f, self.problem.g)]
        value, *states = _Solve.apply(self, u0, *self.problem.params)  # type: ignore[no-untyped-call]
        ends = len(states) - len(self.times)
        return states[ends:], value, states[:ends]

    def problem_as_solved(self) -> Problem:
        """The problem with the parameters it was solved with, should the module hold others by now.

        ``torch.func.functional_call`` lends a module its parameters for the forward call alone.
        """
        of_f, of_g = self.named_params
        problem = self.problem
        return dataclasses.replace(
            problem, f=_lent(problem.f, of_f), g=None if problem.g is None else _lent(problem.g, of_g)
        )


def _named(dynamics: Dynamics | None) -> dict[str, torch.Tensor]:
    return dict(dynamics.named_parameters()) if isinstance(dynamics, torch.nn.Module) else {}


def _lent(dynamics: Dynamics, params: dict[str, torch.Tensor]) -> Dynamics:
    """The dynamics with these parameters, if they do not hold them anyway."""
    if not isinstance(dynamics, torch.nn.Module) or all(
        p is params[name] for name, p in dynamics.named_parameters()
    ):
        return dynamics

    def lent(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = torch.func.functional_call(dynamics, params, (t, u))
        return k

    return lent


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, u0: torch.Tensor, *params: torch.Tensor) -> tuple[torch.Tensor, ...]:
        trajectory = solve.engine.solve(solve.problem, u0.detach(), solve.times, solve.keep)
        solve.trajectory = trajectory
        ctx.solve = solve
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u0, *params)  # refuses tensors that were written to since
        recorded, value = solve.recorded, u0.new_empty(0)
        states: list[torch.Tensor] = []
        ctx.weights = recorded.weights(trajectory) if recorded is not None else {}
        if recorded is not None and recorded.states:
            states = [trajectory.u[i].clone() for i in ctx.weights]
        elif recorded is not None:
            terms = [weight * trajectory.estimate(recorded.quantity, i) for i, weight in ctx.weights.items()]
            value = u0.new_full((), sum(terms))
        # an output kept by its own graph is a cycle that nothing frees
        outputs, trajectory.outputs = trajectory.outputs, []
        return value, *states, *outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "the adjoints give first derivatives only: call backward without create_graph=True, or "
                "differentiate local_error, which has derivatives of every order"
            )
        solve: Solve = ctx.solve
        _, *params = ctx.saved_tensors
        if all(cotangent is None for cotangent in cotangents):
            return (None, None, *(None for _ in params))
        by_value, *by_states = cotangents
        recorded, weights = solve.recorded, ctx.weights
        times = list(solve.times)
        steps: list[StepCotangent] = []
        if recorded is not None and recorded.states:
            times = [*(solve.trajectory.t[i] for i in weights), *times]
        elif recorded is not None and by_value is not None:
            steps = [
                StepCotangent(
                    i, by_value * weight, recorded.quantity, recorded.gradient, recorded.through_state
                )
                for i, weight in weights.items()
            ]
        at_times = [(t, g) for t, g in zip(times, by_states, strict=True) if g is not None]
        start, end = solve.problem.tspan
        at_times.sort(key=lambda pair: pair[0] if end > start else -pair[0])
        grad_u0, grad_params = solve.engine.pull_back(
            solve.problem_as_solved(), solve.trajectory, solve.adjoint, at_times, steps
        )
        return (None, grad_u0 if ctx.needs_input_grad[1] else None, *grad_params)
