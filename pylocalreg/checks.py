"""Input checks, made before anything is solved."""

import functools
import logging
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _NormBase

from pylocalreg.errors import (
    DeviceError,
    DtypeError,
    NonFiniteError,
    OptionError,
    SaveAtError,
    ShapeError,
    TimeSpanError,
    ToleranceError,
)
from pylocalreg.observed.reached import is_transformed

_log = logging.getLogger("pylocalreg")

DTYPES = (torch.float32, torch.float64)


NOT_NUMBERS = (TypeError, ValueError, OverflowError, RuntimeError)
"""What float() raises: RuntimeError for a tensor of several elements or of complex numbers."""


def check_tspan(tspan: Iterable[Any]) -> tuple[float, float]:
    """The span as two finite floats that differ; it may run backwards."""
    try:
        start, end = (_plain(t) for t in tspan)
    except NOT_NUMBERS as error:
        raise TimeSpanError(f"tspan = {short(tspan)} is not a pair of numbers (start, end)") from error
    if not (math.isfinite(start) and math.isfinite(end)):
        raise TimeSpanError(f"tspan = ({start}, {end}) is not finite")
    if start == end:
        raise TimeSpanError(f"tspan = ({start}, {end}) is empty: there is nothing to solve")
    return start, end


def _plain(t: Any) -> float:
    return float(t.detach() if isinstance(t, torch.Tensor) else t)


def check_tolerance(name: str, value: float) -> float:
    try:
        value = float(value)
    except NOT_NUMBERS as error:
        raise ToleranceError(f"{name} = {short(value)} is not a number") from error
    if not (math.isfinite(value) and value > 0):
        raise ToleranceError(f"{name} = {value} must be a finite number greater than 0")
    return value


def check_count(name: str, count: int, most: int = 2**31 - 1) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise OptionError(f"{name} = {short(count)} must be a whole number from 1 to {most}")
    return count


def check_number(name: str, value: Any) -> float:
    """Raise `OptionError` for what is no number."""
    try:
        return float(value)
    except NOT_NUMBERS as error:
        raise OptionError(f"{name} = {short(value)} is not a number") from error


def check_flag(name: str, value: object) -> None:
    """Raise `OptionError` for what is neither True, False nor None."""
    if value is not None and not isinstance(value, bool):
        raise OptionError(f"{name} = {short(value)} must be True or False")


def check_dt(dt: float | None, tspan: tuple[float, float]) -> float | None:
    """A given first step points along the span; its sign may be left out, as in the stack."""
    if dt is None:
        return None
    try:
        dt = float(dt)
    except NOT_NUMBERS as error:
        raise TimeSpanError(f"dt = {short(dt)} is not a number") from error
    span = tspan[1] - tspan[0]
    if not math.isfinite(dt) or dt == 0 or (dt < 0 < span) or abs(dt) > abs(span):
        raise TimeSpanError(f"dt = {dt} is not a step along tspan {tspan}: give 0 < |dt| <= {abs(span):g}")
    return math.copysign(dt, span)


def round_time(t: Any, dtype: torch.dtype) -> float:
    """The time as the state's dtype holds it: float32 states are solved in float32 time, as in the stack."""
    return float(np.float32(_plain(t))) if dtype == torch.float32 else t


def check_saveat(saveat: Iterable[Any] | None, tspan: tuple[float, float]) -> tuple[float, ...] | None:
    """Times in the span, ordered from its start to its end; several may be equal."""
    if saveat is None:
        return None
    try:
        times = tuple(_plain(t) for t in saveat)
    except NOT_NUMBERS as error:
        raise SaveAtError(f"saveat = {short(saveat)} is not a sequence of numbers") from error
    if not times:
        raise SaveAtError("saveat is empty: leave it out to get the state at the end of tspan")
    low, high = min(tspan), max(tspan)
    outside = [t for t in times if not low <= t <= high]  # NaN too
    if outside:
        raise SaveAtError(f"saveat has {len(outside)} times outside tspan {tspan}, the first {outside[0]}")
    direction = 1 if tspan[1] > tspan[0] else -1
    for earlier, later in pairwise(times):
        if not direction * (later - earlier) >= 0:
            raise SaveAtError(f"saveat goes from {earlier} to {later}: order it along tspan {tspan}")
    return times


def short(value: object) -> str:
    """As an error can show it: an integer of more digits than Python prints has no repr."""
    try:
        text = repr(value)
    except ValueError:
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 200 else text[:200] + "..."


def check_state(u0: torch.Tensor) -> None:
    if not isinstance(u0, torch.Tensor):
        raise ShapeError(f"the state is a {type(u0).__name__}: give a torch tensor")
    if u0.is_meta:
        raise DeviceError(
            f"the state of shape {tuple(u0.shape)} is a meta tensor: it has no values to solve from"
        )
    if u0.is_nested or u0.layout != torch.strided:
        kind = "nested" if u0.is_nested else str(u0.layout).removeprefix("torch.")
        raise DtypeError(f"the state is a {kind} tensor: give a dense one, as u0.to_dense() or a padded one")
    if u0.is_inference() and not torch.is_inference_mode_enabled():
        raise DtypeError(
            "the state was made in inference mode, and no gradient can be taken of it: solve in that mode "
            "too, or give u0.clone()"
        )
    if u0.dtype not in DTYPES:
        raise DtypeError(f"the state is of {u0.dtype}: only torch.float32 and torch.float64 are solved")
    if u0.numel() == 0:
        raise ShapeError(f"the state of shape {tuple(u0.shape)} is empty: give at least one element")


def check_inputs(inputs: Any) -> tuple[torch.Tensor, ...]:
    """Injected inputs as a tuple; one tensor alone is one input."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if not isinstance(inputs, tuple | list) or not all(isinstance(x, torch.Tensor) for x in inputs):
        got = (
            [type(x).__name__ for x in inputs] if isinstance(inputs, tuple | list) else type(inputs).__name__
        )
        raise OptionError(
            f"inputs = {got}: give tensors, node(u0, inputs=(x, y)); f is called as f(t, u, x, y)"
        )
    return tuple(inputs)


def check_tensors(params: Any) -> tuple[torch.Tensor, ...]:
    """``params``, tensors that the dynamics close over."""
    try:
        given = (params,) if isinstance(params, torch.Tensor) else tuple(params)
    except TypeError as error:
        raise OptionError(f"params = {short(params)}: give a sequence of tensors") from error
    wrong = [type(x).__name__ for x in given if not isinstance(x, torch.Tensor)]
    if wrong:
        raise OptionError(f"params holds {', '.join(wrong)}: give the tensors that the dynamics close over")
    return given


def check_parameters(params: Iterable[torch.Tensor], u0: torch.Tensor) -> None:
    params = list(params)
    numbers = [p for p in params if p.is_floating_point() or p.is_complex()]
    if numbers and u0.dtype not in {p.real.dtype for p in numbers}:
        names = ", ".join(sorted({str(p.dtype) for p in numbers}))
        raise DtypeError(
            f"the dynamics' parameters are of {names}, the state is of {u0.dtype}: give one dtype, as in "
            "module.to(u0.dtype) or u0.to(...)"
        )
    for p in params:
        if p.device != u0.device:
            raise DeviceError(
                f"a parameter of shape {tuple(p.shape)} is on {p.device}, the state on {u0.device}: move the "
                "module or the state, as in module.to(u0.device)"
            )


def check_finite(value: torch.Tensor, t: float, dt: float) -> None:
    """Raise `NonFiniteError` where the estimate of a step from ``t`` is NaN or infinite."""
    if not is_transformed(value) and not torch.isfinite(value):
        raise NonFiniteError(
            f"the estimate of the step from t = {t:.6g} of size dt = {dt:.3g} is {float(value)}: the state "
            "or the dynamics there are NaN or infinite, or the step is too long"
        )


MOMENTUM = 0.01
"""Of running statistics: at more, a call counts for less than a solve."""


def check_running_statistics(sides: Iterable[torch.nn.Module]) -> None:
    """Say once where normalization in training mode follows the last calls of a solve alone."""
    for module in (module for side in sides for module in side.modules()):
        if not isinstance(module, _NormBase) or not (module.training and module.track_running_stats):
            continue
        if module.momentum is not None and module.momentum > MOMENTUM:
            _say_momentum(type(module).__name__, module.momentum)


@functools.cache
def _say_momentum(name: str, momentum: float) -> None:
    _log.warning(
        "%s in the dynamics, momentum = %g: its running statistics, by which eval() normalizes, follow the "
        "last %.0f calls, and a solve makes more: they are those of one batch near the end of tspan. Give "
        "momentum=0.001 or None (the mean over all calls)",
        name,
        momentum,
        2 / momentum,
    )


@functools.lru_cache(maxsize=256)
def check_resolved(abstol: float, reltol: float, dtype: torch.dtype) -> None:
    """Check that the dtype holds the tolerances; a ``reltol`` below its rounding is taken, and said once.

    Raises:
        ToleranceError: ``abstol`` would be rounded to 0 or to few digits, or the square of a tolerance would
            overflow, so that every error is 0 beside it.
    """
    finest, coarsest, eps = _range(dtype)
    for name, value, least in (("abstol", abstol, finest), ("reltol", reltol, 0.0)):
        if not least <= value <= coarsest:
            raise ToleranceError(
                f"{name} = {value:g} can not be told from {'0' if value < least else 'infinity'} in {dtype}: "
                f"give {least:.2g} <= {name} <= {coarsest:.2g}"
            )
    if reltol < eps:
        _say_unresolved(reltol, dtype)


@functools.cache
def _range(dtype: torch.dtype) -> tuple[float, float, float]:
    """The smallest number, the largest whose square is one, and the rounding of 1."""
    numbers = torch.finfo(dtype)
    return numbers.tiny, math.sqrt(numbers.max), numbers.eps


@functools.cache
def _say_unresolved(reltol: float, dtype: torch.dtype) -> None:
    _log.warning(
        "reltol = %g is finer than %s resolves (%.2g): rounding can keep the steps small; loosen it%s",
        reltol,
        dtype,
        torch.finfo(dtype).eps,
        " or solve in torch.float64" if dtype == torch.float32 else "",
    )
