"""The size of a high derivative of the solution as a term of the loss."""

from dataclasses import dataclass

import torch

from pylocalreg.checks import check_count
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Dynamics, Engine
from pylocalreg.regularizers.base import Regularized
from pylocalreg.regularizers.integral import Derivative, Integral, derivative_of

MOST = 8
"""The order's limit: each one more is twice the work."""


@dataclass(frozen=True)
class TayNODE(Integral):
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
        """As `Regularizer.check`."""
        self.check_solver(engine, solver, "a path of an SDE has no derivatives by time")

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """As `Regularizer.solve`."""
        derivative_along = derivative_of(solve.problem.f)

        def rates(f: Dynamics, t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            velocity, derivative = _derivatives(f, self.order, t, u, derivative_along)
            return velocity, derivative.square().mean()

        return self.integrate(solve, u0, rates, self.order - 1)


def _derivatives(
    f: Dynamics, order: int, t: torch.Tensor, u: torch.Tensor, derivative_along: Derivative
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first total derivative of the solution through (t, u), and that of this order."""
    velocity = f(t, u)
    if order == 1:
        return velocity, velocity

    def lower(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return _derivatives(f, order - 1, t, u, derivative_along)[1]

    return velocity, derivative_along(lower, (t, u), (torch.ones_like(t), velocity))
