"""The error or stiffness estimates of all steps as a term of the loss: ERNODE and SRNODE."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.engines.autograd import Recorded, Solve
from pylocalreg.engines.base import Adjoint, Calls, Engine, Quantity, Trajectory
from pylocalreg.errors import OptionError
from pylocalreg.regularizers.base import Regularized, choose


@dataclass(frozen=True)
class GlobalRegularizer:
    """The sum over all accepted steps (Pal, Ma, Shah, Rackauckas 2021, Opening the Blackbox, section 3).

    The gradient is the exact one of the sum, through every state; step sizes are held constant.

    Args:
        quantity: ``"error"``: the sum of EEst * |dt| (ERNODE); ``"stiffness"``: the sum of the stiffness
            estimates S = rms(f(a) - f(b)) / rms(a - b) of each step's last two stages (SRNODE).

    Raises:
        OptionError: the quantity does not exist; the adjoint is not ``"discrete"``.
    """

    quantity: Quantity = "error"

    def __post_init__(self) -> None:
        choose("quantity", self.quantity, ("error", "stiffness"))

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        """As `Regularizer.check`."""
        if adjoint != "discrete":
            raise OptionError(
                f"GlobalRegularizer with adjoint={adjoint!r}: it depends on every stage of every step, which "
                "only adjoint='discrete' takes again; LocalRegularizer goes with all adjoints"
            )
        engine.check_estimate(solver, self.quantity)

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """As `Regularizer.solve`."""
        solve.recorded = Recorded(self.quantity, through_state=True)
        solve.keep = dataclasses.replace(solve.keep, stiffness=self.quantity == "stiffness")
        states, value, _ = solve.run(u0)
        return Regularized(states, solve.times, value, Calls())

    def join(self, pieces: Sequence[tuple[torch.Tensor, Trajectory]]) -> torch.Tensor:
        """The sum over the steps of all pieces."""
        return torch.stack([value for value, _ in pieces]).sum()
