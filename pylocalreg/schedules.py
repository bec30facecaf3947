"""Coefficients of the regularizer over training: functions of the step, counted from 0."""

import math
from dataclasses import dataclass

from pylocalreg.errors import OptionError


def _check(start: float, end: float, steps: int) -> None:
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
