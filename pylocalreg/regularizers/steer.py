"""A random end of the time span: no term of the loss, but a regularizer all the same."""

import dataclasses
import math
from dataclasses import dataclass

import torch

from pylocalreg.checks import check_number, round_time
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Calls, Engine
from pylocalreg.errors import OptionError, SaveAtError
from pylocalreg.regularizers.base import Regularized, check_generator, draw


@dataclass(frozen=True)
class STEER:
    """The solve ends at a time uniform in (t1 - spread, t1 + spread), one draw a solve (Ghosh, Behl, Dupont,
    Torr, Namboodiri 2020). The state asked for at t1 is the one there; ``solution.t`` says when that is. The
    value is 0.

    Args:
        spread: half the width of the interval, greater than 0 and less than the length of the span.
        generator: where the draws come from; torch's global CPU generator if None.

    Raises:
        OptionError: the spread is none; it reaches the start of the span; the generator is not a CPU one.
        SaveAtError: at the call, a time is asked for that may lie beyond the end.
    """

    spread: float
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        spread = check_number("spread", self.spread)
        if not (math.isfinite(spread) and spread > 0):
            raise OptionError(f"spread = {spread} must be a finite number greater than 0")
        check_generator(self.generator)

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        """As `Regularizer.check`."""
        if self.spread >= abs(tspan[1] - tspan[0]):
            raise OptionError(
                f"spread = {self.spread} must be less than the length of tspan {tspan}: the end would lie "
                "before the start"
            )

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """As `Regularizer.solve`."""
        start, t1 = solve.problem.tspan
        direction = math.copysign(1, t1 - start)
        end = round_time(t1 + self.spread * (2 * draw(self.generator) - 1), u0.dtype)
        earliest = t1 - direction * self.spread
        beyond = [t for t in solve.times if t != t1 and direction * (t - earliest) > 0]
        if beyond:
            raise SaveAtError(
                f"saveat has {len(beyond)} times, the first {beyond[0]}, where the span may have ended: with "
                f"STEER(spread={self.spread}) save at {t1} or not beyond {earliest:.6g}"
            )
        solve.problem = dataclasses.replace(solve.problem, tspan=(start, end))
        solve.times = [end if t == t1 else t for t in solve.times]
        states, _, _ = solve.run(u0)
        return Regularized(states, solve.times, u0.new_zeros(()), Calls())
