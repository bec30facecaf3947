"""Dynamics that may jump at the tstops: a step sees the values of its own side alone.

The last stage of a step that ends at a jump, and the first of the one that starts there, have the same time.
Each is moved by one rounding into its step's side, so that neither depends on whether the dynamics compare
with ``<`` or ``<=``.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from pylocalreg.engines.base import Dynamics


class OneSided:
    """``f`` at times between two neighbouring stops; at any time until `on_side` says between which."""

    def __init__(self, f: Dynamics, stops: tuple[float, ...]) -> None:
        self.f, self.stops = f, stops
        self.low, self.high = -math.inf, math.inf

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        low, high = self._bounds(np.float32 if t.dtype == torch.float32 else np.float64)
        return self.f(t + (t.clamp(low, high) - t).detach(), u)

    def clamped(self, times: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Times of the state's precision as ``f`` is given them."""
        return times.clip(*self._bounds(times.dtype.type))

    def _bounds(self, T: Any) -> tuple[float, float]:
        return float(np.nextafter(T(self.low), T(math.inf))), float(np.nextafter(T(self.high), T(-math.inf)))

    @contextmanager
    def between(self, t: float, t_new: float) -> Iterator[None]:
        before = self.low, self.high
        i = bisect_right(self.stops, (t + t_new) / 2)
        self.low = self.stops[i - 1] if i > 0 else -math.inf
        self.high = self.stops[i] if i < len(self.stops) else math.inf
        try:
            yield
        finally:
            self.low, self.high = before


ANYWHERE = nullcontext()


def one_sided(f: Dynamics, stops: tuple[float, ...]) -> Dynamics:
    return OneSided(f, stops) if stops else f


def whole(f: Dynamics) -> Dynamics:
    """The dynamics of both sides."""
    return f.f if isinstance(f, OneSided) else f


def on_side(f: Dynamics, t: float, dt: float) -> AbstractContextManager[None]:
    """Where ``f`` is evaluated for the step from ``t`` of size ``dt``, and for what is made of that step."""
    return f.between(t, t + dt) if isinstance(f, OneSided) else ANYWHERE


def inside(f: Dynamics, t: float) -> float:
    """The time, or where it is the end of the side `on_side` speaks of, one a rounding inside of it."""
    if not isinstance(f, OneSided):
        return t
    return min(max(t, math.nextafter(f.low, math.inf)), math.nextafter(f.high, -math.inf))
