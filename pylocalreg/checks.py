"""Input checks, made before anything is solved."""

import functools
import logging
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch

from pylocalreg.errors import (
    DeviceError,
    DtypeError,
    OptionError,
    SaveAtError,
    ShapeError,
    TimeSpanError,
    ToleranceError,
)

_log = logging.getLogger("pylocalreg")

DTYPES = (torch.float32, torch.float64)


def check_tspan(tspan: Sequence[float]) -> tuple[float, float]:
    """The span as two finite floats that differ; it may run backwards."""
    try:
        start, end = (float(t) for t in tspan)
    except (TypeError, ValueError) as error:
        raise TimeSpanError(f"tspan = {tspan!r} is not a pair of numbers (start, end)") from error
    if not (math.isfinite(start) and math.isfinite(end)):
        raise TimeSpanError(f"tspan = ({start}, {end}) is not finite")
    if start == end:
        raise TimeSpanError(f"tspan = ({start}, {end}) is empty: there is nothing to solve")
    return start, end


def check_tolerance(name: str, value: float) -> float:
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise ToleranceError(f"{name} = {value} is not a number") from error
    if not (math.isfinite(value) and value > 0):
        raise ToleranceError(f"{name} = {value} must be a finite number greater than 0")
    return value


def check_count(name: str, count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"{name} = {count!r} must be a whole number, at least 1")
    return count


def check_dt(dt: float | None, tspan: tuple[float, float]) -> float | None:
    """A given first step points along the span; its sign may be left out, as in the stack."""
    if dt is None:
        return None
    try:
        dt = float(dt)
    except (TypeError, ValueError) as error:
        raise TimeSpanError(f"dt = {dt!r} is not a number") from error
    span = tspan[1] - tspan[0]
    if not math.isfinite(dt) or dt == 0 or (dt < 0 < span) or abs(dt) > abs(span):
        raise TimeSpanError(f"dt = {dt} is not a step along tspan {tspan}: give 0 < |dt| <= {abs(span):g}")
    return math.copysign(dt, span)


def round_time(t: float, dtype: torch.dtype) -> float:
    """The time as the state's dtype holds it: float32 states are solved in float32 time, as in the stack."""
    return float(np.float32(t)) if dtype == torch.float32 else t


def check_saveat(saveat: Sequence[float] | None, tspan: tuple[float, float]) -> tuple[float, ...] | None:
    """Times in the span, strictly ordered from its start to its end."""
    if saveat is None:
        return None
    try:
        times = tuple(float(t) for t in saveat)
    except (TypeError, ValueError) as error:
        raise SaveAtError(f"saveat = {saveat!r} is not a sequence of numbers") from error
    if not times:
        raise SaveAtError("saveat is empty: leave it out to get the state at the end of tspan")
    low, high = min(tspan), max(tspan)
    outside = [t for t in times if not low <= t <= high]
    if outside:
        raise SaveAtError(f"saveat has {len(outside)} times outside tspan {tspan}, the first {outside[0]}")
    direction = 1 if tspan[1] > tspan[0] else -1
    for earlier, later in pairwise(times):
        if direction * (later - earlier) <= 0:
            raise SaveAtError(f"saveat goes from {earlier} to {later}: order it strictly along tspan {tspan}")
    return times


def check_state(u0: torch.Tensor) -> None:
    if not isinstance(u0, torch.Tensor):
        raise ShapeError(f"the state is a {type(u0).__name__}: give a torch tensor")
    if u0.dtype not in DTYPES:
        raise DtypeError(f"the state is of {u0.dtype}: only torch.float32 and torch.float64 are solved")
    if u0.numel() == 0:
        raise ShapeError(f"the state of shape {tuple(u0.shape)} is empty: give at least one element")


def check_parameters(params: Iterable[torch.Tensor], u0: torch.Tensor) -> None:
    for p in params:
        if p.device != u0.device:
            raise DeviceError(
                f"a parameter of shape {tuple(p.shape)} is on {p.device}, the state on {u0.device}: move the "
                "module or the state, as in module.to(u0.device)"
            )


def check_resolved(abstol: float, reltol: float, dtype: torch.dtype) -> None:
    """Check that the dtype holds the tolerances; a ``reltol`` below its rounding is taken, and said once.

    Raises:
        ToleranceError: ``abstol`` would be rounded to 0 or to few digits, or the square of a tolerance would
            overflow, so that every error is 0 beside it.
    """
    numbers = torch.finfo(dtype)
    finest, coarsest = numbers.tiny, math.sqrt(numbers.max)
    for name, value, least in (("abstol", abstol, finest), ("reltol", reltol, 0.0)):
        if not least <= value <= coarsest:
            raise ToleranceError(
                f"{name} = {value:g} can not be told from {'0' if value < least else 'infinity'} in {dtype}: "
                f"give {least:.2g} <= {name} <= {coarsest:.2g}"
            )
    if reltol < numbers.eps:
        _say_unresolved(reltol, dtype)


@functools.cache
def _say_unresolved(reltol: float, dtype: torch.dtype) -> None:
    _log.warning(
        "reltol = %g is finer than %s resolves (%.2g): rounding can keep the steps small; loosen it%s",
        reltol,
        dtype,
        torch.finfo(dtype).eps,
        " or solve in torch.float64" if dtype == torch.float32 else "",
    )
