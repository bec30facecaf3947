"""The size of a high derivative of the solution as a term of the loss."""

import dataclasses
from dataclasses import dataclass

import torch

from pylocalreg.checks import check_count
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Calls, Dynamics, Engine
from pylocalreg.errors import OptionError
from pylocalreg.forward_mode import derivative_along
from pylocalreg.regularizers.base import Regularized

MOST = 8
"""The order's limit: each one more is twice the work."""


@dataclass(frozen=True)
class TayNODE:
    """The integral over the span of mean(|d^K u / dt^K|^2), the mean over every element of the batch (Kelly,
    Bettencourt, Johnson, Duvenaud 2020, equation 1).

    The integral is one more element of the state that is solved, so that it has the solver's accuracy and
    every adjoint. The derivative is taken by nested forward-mode differentiation: K calls of the dynamics in
    place of one, those beyond the first counted in ``stats.nfe_regularizer``.

    Args:
        order: K, from 1 to 8; the paper takes 2 to 4.

    Raises:
        OptionError: the order is none; the solver is one of SDEs; at the call, the Jacobian is one per
            sample.
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_count("order", self.order, most=MOST)

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        if engine.is_stochastic(solver):
            raise OptionError(f"TayNODE with solver={solver!r}: a path of an SDE has no derivatives by time")

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        if solve.problem.jacobian == "per_sample":
            raise OptionError(
                "TayNODE with jacobian='per_sample': its integral couples the samples; take jacobian='system'"
            )
        augmented = _Augmented(solve.problem.f, self.order, u0.shape)
        solve.problem = dataclasses.replace(solve.problem, f=augmented)
        solve.read = augmented.state
        end = solve.problem.tspan[1]
        asked = list(solve.times)
        if asked[-1] != end:
            solve.times = [*asked, end]
        states, _, _ = solve.run(torch.cat([u0.reshape(-1), u0.new_zeros(1)]))
        value = states[-1][-1] * (1 if end > solve.problem.tspan[0] else -1)
        states = [augmented.state(state) for state in states[: len(asked)]]
        return Regularized(states, asked, value, Calls(augmented.extra_calls))


class _Augmented(torch.nn.Module):
    """The dynamics of the state, flat in one vector, and of the integral behind it."""

    def __init__(self, f: Dynamics, order: int, shape: torch.Size) -> None:
        super().__init__()
        self.f, self.order, self.shape = f, order, shape
        self.extra_calls = 0

    def state(self, augmented: torch.Tensor) -> torch.Tensor:
        return augmented[:-1].view(self.shape)

    def forward(self, t: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
        self.extra_calls += self.order - 1
        velocity, derivative = self._derivatives(self.order, t, self.state(augmented))
        return torch.cat([velocity.reshape(-1), derivative.square().mean().reshape(1)])

    def _derivatives(self, order: int, t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first total derivative of the solution through (t, u), and that of this order."""
        velocity = self.f(t, u)
        if order == 1:
            return velocity, velocity

        def lower(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return self._derivatives(order - 1, t, u)[1]

        return velocity, derivative_along(lower, (t, u), (torch.ones_like(t), velocity))
