"""The Brownian path of an SDE's solve: drawn where it is asked for, and remembered."""

import math
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pylocalreg.checks import DTYPES, NOT_NUMBERS, short
from pylocalreg.errors import DtypeError, OptionError, ShapeError, TimeSpanError

ROUNDING = 8  # times that differ by so many roundings are one time


@dataclass
class _Interval:
    """The path between two known times, ``length`` apart.

    ``mean`` is the mean over the interval of W - W(start), less dW / 2: the part of the integral of W that
    is independent of dW, of variance length / 12. None until it is asked for.
    """

    length: float
    dW: torch.Tensor
    mean: torch.Tensor | None = None


class BrownianPath:
    """One path of W, and over each step the dZ that methods of order 1.5 take.

    A time that is asked for the first time is drawn, conditional on all that is known: beyond the last known
    time freely, between two by the Brownian bridge. What was drawn is never forgotten, so that a path has
    one value at a time whatever the steps: a rejected step leaves its points behind (rejection sampling with
    memory, Rackauckas and Nie 2017, with nothing discarded), and a second solve over the same path sees the
    same W. Over every step dW and dZ are independent normals of variance dt, as in the stack. There Z is a
    path of its own; here dZ says what the integral of this W over the step is, int (W - W(t)) dt =
    dt (dW + dZ / sqrt(3)) / 2, for short steps and for long ones over the same times: solves with different
    steps converge to one solution with the methods' full order.

    The same seed and the same order of first questions give the same path; another order gives another path
    of the same distribution. Memory: one tensor for each known time, two where dZ was asked for.

    Args:
        start: the time where W is 0.
        shape: of W(t): the state's for diagonal and additive noise, for scalar noise with 1 for the last
            dimension.
        seed: of every draw.
        dtype, device: of W(t); draws are made on this device.
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
        if dtype not in DTYPES:
            raise DtypeError(f"dtype = {dtype}: a path is of torch.float32 or torch.float64")
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
            raise OptionError(f"seed = {short(seed)} must be a whole number of 64 bits")
        try:
            self.start, self.shape, self.seed = float(start), torch.Size(shape), seed
        except NOT_NUMBERS as error:
            raise ShapeError(
                f"a path from {short(start)} of shape {short(shape)}: give a number and a sequence of sizes"
            ) from error
        if not math.isfinite(self.start):
            raise TimeSpanError(f"the Brownian path can not start at {self.start}")
        self.dtype, self.device = dtype, torch.empty(0, device=device).device
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._rounding = ROUNDING * torch.finfo(dtype).eps
        self._times = [self.start]
        self._intervals: list[_Interval] = []
        self._lock = threading.RLock()  # a question may draw, which threads do one after the other

    @property
    def times(self) -> tuple[float, ...]:
        """Where W is known, in rising order."""
        return tuple(self._times)

    def __call__(self, t: float) -> torch.Tensor:
        """W(t) - W(start).

        Raises:
            TimeSpanError: ``t`` lies before the start, or is not finite.
        """
        try:
            t = float(t)
        except NOT_NUMBERS as error:
            raise TimeSpanError(f"a path is asked for one time, not for a {type(t).__name__}") from error
        if not self.start <= t < math.inf:
            raise TimeSpanError(f"the Brownian path starts at {self.start}: it has no value at t = {t}")
        if t == self.start:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        return self.dW(self.start, t).clone()

    def dW(self, start: float, end: float) -> torch.Tensor:
        """W(end) - W(start), start < end; not to be written to."""
        with self._lock:
            intervals = self._between(start, end)
        if len(intervals) == 1:
            return intervals[0].dW
        return torch.stack([interval.dW for interval in intervals]).sum(0)

    def dZ(self, start: float, end: float) -> torch.Tensor:
        """2 sqrt(3) (mean of W - W(start) over the step, less dW / 2), start < end."""
        with self._lock:
            intervals = self._between(start, end)
            means = [self._mean(interval) for interval in intervals]
        if len(intervals) == 1:
            return means[0] * (2 * math.sqrt(3))
        length = sum(interval.length for interval in intervals)
        reached = torch.zeros_like(intervals[0].dW)
        integral = torch.zeros_like(reached)
        for interval, mean in zip(intervals, means, strict=True):
            integral.add_(reached + interval.dW / 2 + mean, alpha=interval.length)
            reached.add_(interval.dW)
        return integral.div_(length).sub_(reached, alpha=0.5).mul_(2 * math.sqrt(3))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def independent(self, seed: int) -> "BrownianPath":
        """Another path like this one."""
        return BrownianPath(self.start, self.shape, seed=seed, dtype=self.dtype, device=self.device)

    def _between(self, start: float, end: float) -> list[_Interval]:
        i = self._index(start, -1)
        return self._intervals[i : self._index(end, i)]

    def _index(self, time: float, after: int) -> int:
        """Index of ``time`` among the known times, beyond the index ``after``; drawn where it is new."""
        times = self._times
        if after >= 0:  # a step shorter than rounding still moves on
            time = max(time, math.nextafter(times[after], math.inf))
        i = bisect_left(times, time, after + 1)
        same = self._rounding * max(abs(times[0]), abs(times[-1]))
        if i < len(times) and times[i] - time <= same:
            return i
        if i - 1 > after and time - times[i - 1] <= same:
            return i - 1
        if i == len(times):
            length = time - times[-1]
            self._intervals.append(_Interval(length, self._normal().mul_(math.sqrt(length))))
        else:
            self._split(i - 1, time - times[i - 1], times[i] - time)
        times.insert(i, time)
        return i

    def _split(self, i: int, left: float, right: float) -> None:
        """Draw W inside an interval, given dW and, where it is known, the mean over it."""
        whole = self._intervals[i]
        length = left + right
        if whole.mean is None:
            scale = math.sqrt(left * right / length)
            dW = self._normal().mul_(scale).add_(whole.dW, alpha=left / length)
            parts = _Interval(left, dW), _Interval(right, whole.dW - dW)
        else:
            # of x = (dW, mean of W) of the left part, given y = (dW, mean of W) of the whole: y = A x + B x',
            # x' those of the right part, and x, x' have precision Q / left and Q / right
            Q = np.array([[4.0, -6.0], [-6.0, 12.0]])
            A = np.array([[-1.0, 0.0], [-1.0, -left / right]])  # x' = A x + C y
            C = np.array([[1.0, 0.0], [0.0, length / right]])
            covariance = np.linalg.inv(Q / left + A.T @ Q @ A / right)
            (w_by_w, w_by_m), (m_by_w, m_by_m) = (-covariance @ A.T @ Q @ C / right).tolist()
            (root_w, _), (root_both, root_m) = np.linalg.cholesky(covariance).tolist()
            one, two = self._normal(), self._normal()
            mean = whole.mean.add(whole.dW, alpha=0.5)
            dW = one * root_w + w_by_w * whole.dW + w_by_m * mean
            left_mean = two.mul_(root_m).add_(one, alpha=root_both) + m_by_w * whole.dW + m_by_m * mean
            right_mean = (mean * length - left_mean * left) / right - dW
            right_dW = whole.dW - dW
            parts = (
                _Interval(left, dW, left_mean.sub_(dW, alpha=0.5)),
                _Interval(right, right_dW, right_mean.sub_(right_dW, alpha=0.5)),
            )
        self._intervals[i : i + 1] = parts

    def _mean(self, interval: _Interval) -> torch.Tensor:
        if interval.mean is None:
            interval.mean = self._normal().mul_(math.sqrt(interval.length / 12))
        return interval.mean

    def _normal(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=self._generator, dtype=self.dtype, device=self.device)
