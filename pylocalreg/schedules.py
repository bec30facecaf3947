"""Coefficients of the regularizer over training: functions of the step, counted from 0."""

import math
from dataclasses import dataclass

from pylocalreg.checks import check_number
from pylocalreg.errors import OptionError
from pylocalreg.solution import Stats


def _check(start: float, end: float, steps: int) -> None:
    check_number("start", start)
    check_number("end", end)
    check_number("steps", steps)
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0 and end >= 0):
        raise OptionError(f"a coefficient runs between finite numbers >= 0, not from {start} to {end}")
    if steps < 1:
        raise OptionError(f"a schedule takes at least one step, not {steps}")


@dataclass(frozen=True)
class Constant:
    """The same coefficient at every step."""

    value: float

    def __post_init__(self) -> None:
        _check(self.value, self.value, 1)

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Exponential:
    """From ``start`` at step 0 to ``end`` at step ``steps``, by a constant factor a step; then ``end``.

    The paper's schedule (Pal, Edelman, Rackauckas 2023, appendix: 2.5 to 1.0 on MNIST).
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check(self.start, self.end, self.steps)
        if self.start == 0 or self.end == 0:
            raise OptionError(f"an exponential schedule never reaches 0: from {self.start} to {self.end}")

    def __call__(self, step: int) -> float:
        return self.start * math.pow(self.end / self.start, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class Cosine:
    """From ``start`` at step 0 to ``end`` at step ``steps`` along half a cosine; then ``end``."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check(self.start, self.end, self.steps)

    def __call__(self, step: int) -> float:
        share = (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.end + (self.start - self.end) * share


@dataclass(frozen=True)
class InverseDecay:
    """``start`` / (1 + ``decay`` step): the paper's learning rate on Physionet, decay 1e-5."""

    start: float
    decay: float

    def __post_init__(self) -> None:
        _check(self.start, self.decay, 1)

    def __call__(self, step: int) -> float:
        return self.start / (1 + self.decay * step)


class NFEBudget:
    """The coefficient that brings the solver to a target NFE, and holds it there.

    After each training step the coefficient is multiplied by (NFE / target)^gain: it rises while a solve
    takes more evaluations of the dynamics than the target, and falls while it takes fewer. Its own state is
    one number, so a resumed run goes on where it was.

    Args:
        target: calls of the dynamics a solve should take, those of the regularizer left out.
        start: the coefficient before the first observation.
        gain: the weights need some ten steps to follow the coefficient: a gain beyond 0.1 overshoots.
        smallest, largest: bounds of the coefficient, by default a hundredth of the start and a hundred times
            it. It stays at ``largest`` where the target can not be met: every solve takes a few evaluations.

    Raises:
        OptionError: the target is less than 1, the bounds are out of order or a number is not positive.
    """

    def __init__(
        self,
        target: float,
        start: float,
        *,
        gain: float = 0.05,
        smallest: float | None = None,
        largest: float | None = None,
    ) -> None:
        start = check_number("start", start)
        self.target, self.gain = check_number("target", target), check_number("gain", gain)
        self.smallest = start / 100 if smallest is None else smallest
        self.largest = start * 100 if largest is None else largest
        numbers = (target, gain, self.smallest, start, self.largest)
        if not all(math.isfinite(x) and x > 0 for x in numbers):
            raise OptionError(f"a budget is made of finite numbers greater than 0, not of {numbers}")
        if target < 1:
            raise OptionError(f"target = {target}: a solve takes at least one evaluation")
        if not self.smallest <= start <= self.largest:
            raise OptionError(f"start = {start} lies outside of [{self.smallest}, {self.largest}]")
        self.coefficient = start

    def __call__(self, step: int) -> float:
        """The coefficient by now, whatever the step: it follows what was observed."""
        return self.coefficient

    def observe(self, stats: Stats) -> None:
        """What the training step's solve took (``solution.stats``)."""
        share = max(stats.nfe - stats.nfe_regularizer, 1) / self.target
        self.coefficient = min(max(self.coefficient * share**self.gain, self.smallest), self.largest)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint needs: the coefficient by now."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        self.coefficient = state["coefficient"]
