"""The Brownian path of an SDE's solve: drawn where it is asked for, and remembered."""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch

from pylocalreg.errors import TimeSpanError

ROUNDING = 8  # times that differ by so many roundings are one time


class _Wiener:
    """Independent standard Wiener processes, one for each element, from ``start`` on."""

    def __init__(
        self, start: float, shape: Sequence[int], dtype: torch.dtype, device: torch.device, seed: int
    ) -> None:
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self.eps = ROUNDING * torch.finfo(dtype).eps
        self.generator = torch.Generator(device).manual_seed(seed)
        self.times = [start]
        self.increments: list[torch.Tensor] = []  # between each time and the next

    def increment(self, start: float, end: float) -> torch.Tensor:
        """W(end) - W(start); not to be written to."""
        i = self._index(start, -1)
        j = self._index(end, i)
        if j == i + 1:
            return self.increments[i]
        return torch.stack(self.increments[i:j]).sum(0)

    def _index(self, time: float, after: int) -> int:
        """Index of ``time`` among the known times, beyond the index ``after``; drawn where it is new."""
        times = self.times
        if after >= 0:  # a step shorter than rounding still moves on
            time = max(time, math.nextafter(times[after], math.inf))
        i = bisect_left(times, time, after + 1)
        same = self.eps * max(abs(times[0]), abs(times[-1]))
        if i < len(times) and times[i] - time <= same:
            return i
        if i - 1 > after and time - times[i - 1] <= same:
            return i - 1
        if i == len(times):
            self.increments.append(self._normal().mul_((time - times[-1]) ** 0.5))
        else:
            self._split(i - 1, time)
        times.insert(i, time)
        return i

    def _split(self, i: int, time: float) -> None:
        """The bridge: given W at both ends of an interval, W inside is normal around the chord."""
        whole = self.increments[i]
        left, right = time - self.times[i], self.times[i + 1] - time
        length = left + right
        first = self._normal().mul_((left * right / length) ** 0.5).add_(whole, alpha=left / length)
        self.increments[i : i + 1] = [first, whole - first]

    def _normal(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=self.generator, dtype=self.dtype, device=self.device)


class BrownianPath:
    """One path of W, and of the second, independent process Z that methods of order 1.5 take.

    A time that is asked for the first time is drawn, conditional on all that is known: beyond the last known
    time freely, between two by the Brownian bridge. What was drawn is never forgotten, so that a path has
    one value at a time whatever the steps: a rejected step leaves its points behind (rejection sampling with
    memory, Rackauckas and Nie 2017, with nothing discarded), a second solve over the same path sees the same
    W and Z. The same seed and the same order of first questions give the same path; another order gives
    another path of the same distribution. Memory: one tensor for each known time of W, and of Z.

    Args:
        start: the time where W and Z are 0.
        shape: of W(t): the state's for diagonal and additive noise, for scalar noise with 1 for the last
            dimension.
        dtype, device: of W(t); draws are made on this device.
        seed: of every draw.
    """

    def __init__(
        self,
        start: float,
        shape: Sequence[int],
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.start, self.shape, self.seed = start, torch.Size(shape), seed
        self.dtype, self.device = dtype, torch.device(device)
        seeds = np.random.SeedSequence(seed).generate_state(2, np.uint64) >> np.uint64(1)
        self._w, self._z = (
            _Wiener(start, self.shape, dtype, self.device, int(process_seed)) for process_seed in seeds
        )

    @property
    def times(self) -> tuple[float, ...]:
        """Where W is known, in rising order."""
        return tuple(self._w.times)

    def __call__(self, t: float) -> torch.Tensor:
        """W(t) - W(start).

        Raises:
            TimeSpanError: ``t`` lies before the start.
        """
        self._check(t)
        return self.dW(self.start, t).clone() if t > self.start else self._w._normal().zero_()

    def dW(self, start: float, end: float) -> torch.Tensor:
        """W(end) - W(start), start < end; not to be written to."""
        return self._w.increment(start, end)

    def dZ(self, start: float, end: float) -> torch.Tensor:
        """Z(end) - Z(start), start < end; not to be written to."""
        return self._z.increment(start, end)

    def independent(self, seed: int) -> "BrownianPath":
        """Another path like this one."""
        return BrownianPath(self.start, self.shape, seed=seed, dtype=self.dtype, device=self.device)

    def _check(self, t: float) -> None:
        if not self.start <= t < float("inf"):
            raise TimeSpanError(f"the Brownian path starts at {self.start}: it has no value at t = {t}")
