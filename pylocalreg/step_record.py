"""The steps that another solver took: where a regularizing step of the solver's own size comes from."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import torch

from pylocalreg.checks import NOT_NUMBERS, short
from pylocalreg.errors import TimeSpanError


class StepRecord:
    """The accepted steps of a solve made elsewhere; `local_error` takes one in the place of a step size.

    From torchdiffeq, whose solvers call it at every accepted step:
    ``f.callback_accept_step = record.accept``. From the times between which a solver stepped, in order:
    ``StepRecord(solution.ts)`` of diffrax's ``SaveAt(t0=True, steps=True)``, say, whose infinite padding is
    left out.

    Args:
        times: of the first step's start and of every step's end.

    Raises:
        TimeSpanError: what is given are no times, or they run both ways.
    """

    def __init__(self, times: Iterable[Any] = ()) -> None:
        try:
            self._times = [t for t in map(float, times) if math.isfinite(t)]
        except NOT_NUMBERS as error:
            raise TimeSpanError(f"the steps' times {short(times)} are no sequence of numbers") from error
        ordered = sorted(self._times)
        if self._times not in (ordered, ordered[::-1]):
            raise TimeSpanError(f"the steps' times {short(self._times)} run both ways")

    def accept(self, t: Any, u: object, dt: Any) -> None:
        """torchdiffeq's callback: a step of size ``dt`` from ``t``.

        One that does not start where the last one ended is the first of a new solve. Backwards in time
        torchdiffeq tells sizes without their sign: which way a solve runs shows with its second step.
        """
        start, size = (float(x.detach() if isinstance(x, torch.Tensor) else x) for x in (t, dt))
        times = self._times
        near = 1e-6 * abs(size)
        if len(times) == 2 and abs(start - (2 * times[0] - times[1])) <= near:
            times[1] = start  # the first step went backwards
        if not times or abs(start - times[-1]) > near:
            times[:] = [start]
        backwards = len(times) > 1 and times[1] < times[0]
        times.append(start - abs(size) if backwards else start + size)

    def __len__(self) -> int:
        """How many steps were taken."""
        return max(len(self._times) - 1, 0)

    def dt_at(self, t: float) -> float:
        """The signed size of the step that contains ``t``; of two that meet there, of the earlier one's.

        Raises:
            TimeSpanError: no step was recorded, or none reached ``t``.
        """
        times = self._times
        if len(times) < 2:
            raise TimeSpanError(
                "the record holds no step: solve first, with f.callback_accept_step = record.accept for "
                "torchdiffeq's adaptive solvers, or give it the steps' times"
            )
        if len(times) == 2 and t < times[0] < times[1]:  # one step, which can have gone backwards
            times = [times[0], 2 * times[0] - times[1]]
        low, high = min(times[0], times[-1]), max(times[0], times[-1])
        if not low <= t <= high:
            raise TimeSpanError(
                f"t = {t:g} is outside of the recorded steps, from {times[0]:g} to {times[-1]:g}"
            )
        sign = 1 if times[-1] > times[0] else -1
        i = bisect_left([sign * time for time in times], sign * t)
        i = max(i, 1)
        return times[i] - times[i - 1]
