"""What the error estimate R of a step is as a term of a loss: itself, or a logarithm that knows no units."""

import math
from typing import Literal, TypeVar

import torch

Scale = Literal["log", "linear"]

FLOOR = 0.01
"""An EEst far below is no error that costs a step; the controller accepts up to 1."""

T = TypeVar("T", float, torch.Tensor)


def scaled(scale: Scale, estimate: T, dt: float) -> T:
    """``estimate``, R = EEst * |dt|, or the decades of EEst above the floor: log10(1 + EEst / FLOOR)."""
    if scale == "linear":
        return estimate
    ratio = estimate / (abs(dt) * FLOOR)
    return (ratio.log1p() if isinstance(ratio, torch.Tensor) else math.log1p(ratio)) / math.log(10)


def slope(scale: Scale, estimate: float, dt: float) -> float:
    """The derivative of `scaled` by the estimate."""
    return 1.0 if scale == "linear" else 1 / (abs(dt) * FLOOR + estimate) / math.log(10)
