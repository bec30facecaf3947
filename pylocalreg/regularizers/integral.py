"""An integral along the solution as a term of the loss: one more element of the state that is solved."""

import dataclasses
from collections.abc import Callable

import torch

from pylocalreg import forward_mode, reverse_mode
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Calls, Dynamics, Engine
from pylocalreg.errors import OptionError
from pylocalreg.observed import draws_numbers
from pylocalreg.regularizers.base import Regularized

Rates = Callable[[Dynamics, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Of dynamics f at (t, u): du/dt, of ``u``'s shape, and what is integrated, a scalar."""

Derivative = Callable[[Dynamics, forward_mode.Pair, forward_mode.Pair], torch.Tensor]


def derivative_of(f: Dynamics) -> Derivative:
    """How the derivative of ``f`` along a direction is taken: forward, or, where ``f`` draws random numbers,
    of a plain call, which draws what the solve does.
    """
    return reverse_mode.derivative_along if draws_numbers(f) else forward_mode.derivative_along


class Integral:
    """A regularizer whose value is an integral over the span, to the solver's accuracy, by every adjoint."""

    def check_solver(self, engine: Engine, solver: str, why: str) -> None:
        """Raise `OptionError` for a solver of SDEs, saying why."""
        if engine.is_stochastic(solver):
            raise OptionError(f"{type(self).__name__} with solver={solver!r}: {why}")

    def integrate(self, solve: Solve, u0: torch.Tensor, rates: Rates, extra_calls: int) -> Regularized:
        """``extra_calls`` are what ``rates`` takes beyond the one call of the dynamics that du/dt needs."""
        if solve.problem.jacobian == "per_sample":
            raise OptionError(
                f"{type(self).__name__} with jacobian='per_sample': its integral couples the samples; take "
                "jacobian='system'"
            )
        augmented = _Augmented(solve.problem.f, rates, u0.shape)
        solve.problem = dataclasses.replace(solve.problem, f=augmented)
        solve.read = augmented.state
        end = solve.problem.tspan[1]
        asked = list(solve.times)
        if asked[-1] != end:
            solve.times = [*asked, end]
        states, _, _ = solve.run(torch.cat([u0.reshape(-1), u0.new_zeros(1)]))
        value = states[-1][-1] * (1 if end > solve.problem.tspan[0] else -1)
        states = [augmented.state(state) for state in states[: len(asked)]]
        return Regularized(states, asked, value, Calls(extra_calls * augmented.calls))


class _Augmented(torch.nn.Module):
    """The dynamics of the state, flat in one vector, and of the integral behind it."""

    def __init__(self, f: Dynamics, rates: Rates, shape: torch.Size) -> None:
        super().__init__()
        self.f, self.rates, self.shape = f, rates, shape
        self.calls = 0

    def state(self, augmented: torch.Tensor) -> torch.Tensor:
        return augmented[:-1].view(self.shape)

    def forward(self, t: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        velocity, rate = self.rates(self.f, t, self.state(augmented))
        return torch.cat([velocity.reshape(-1), rate.reshape(1)])
