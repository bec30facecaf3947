"""The options of a module that bound its steps and steer their controller, checked."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pylocalreg.checks import NOT_NUMBERS, check_number, round_time, short
from pylocalreg.controllers import ControllerChoice, check_controller
from pylocalreg.engines.base import Landing, StepOptions
from pylocalreg.errors import OptionError, TimeSpanError

Tstops = Sequence[float] | torch.Tensor | np.ndarray[Any, Any]


def check_step_options(
    tspan: tuple[float, float],
    dt: float | None,
    adaptive: bool,
    *,
    tstops: Tstops,
    controller: ControllerChoice = "PI",
    landing: Landing = "cut",
    **given: float | None,
) -> StepOptions:
    """The options that are given, by the names of `StepOptions`.

    Raises:
        OptionError: a value that can not be, or any of ``given`` with fixed steps.
        TimeSpanError: ``tstops`` outside the span, or bounds that the span or ``dt`` does not fit.
    """
    values = {name: _number(name, value) for name, value in given.items() if value is not None}
    options = StepOptions(
        tstops=check_tstops(tstops, tspan), controller=controller, landing=landing, **values
    )
    chosen = {"controller": controller != "PI", "landing": landing != "cut"}
    names = [*values, *(name for name, given_here in chosen.items() if given_here)]
    if names and not adaptive:
        raise OptionError(
            f"{', '.join(names)}: fixed steps have the size dt and no controller; leave "
            f"{'it' if len(names) == 1 else 'them'} out, or take a solver with adaptive steps"
        )
    if landing not in ("cut", "even"):
        raise OptionError(f"landing={landing!r} does not exist: choose 'cut' or 'even'")
    check_controller(controller, options.constants)
    _check_constants(options)
    _check_bounds(options, tspan, dt)
    return options


def refuse_own(engine: str, **own: object) -> None:
    """Raise `OptionError` for options by names of pylocalreg's own that the Julia engine does not have."""
    defaults = {"controller": "PI", "landing": "cut"}
    names = [f"{name}={value!r}" for name, value in own.items() if value != defaults[name]]
    if names and engine == "julia":
        raise OptionError(
            f"{', '.join(names)}: the embedded engine's alone; take engine='torch', or give the stack's own "
            "controller, solve_options={'controller': plr.julia.algorithm(code='PIDController(0.7, -0.4)')}"
        )


def in_dtype(options: StepOptions, dtype: torch.dtype) -> StepOptions:
    """The options of a solve in this dtype: tstops that it does not tell apart are one."""
    if not options.tstops:
        return options
    return dataclasses.replace(options, tstops=tuple(sorted({round_time(t, dtype) for t in options.tstops})))


def check_tstops(tstops: Tstops, tspan: tuple[float, float]) -> tuple[float, ...]:
    """Tstops in the span, in rising order, each once."""
    if isinstance(tstops, torch.Tensor | np.ndarray):
        tstops = tstops.tolist()
    try:
        times = sorted({float(t) for t in tstops})
    except NOT_NUMBERS as error:
        raise TimeSpanError(f"tstops = {short(tstops)} is not a sequence of times") from error
    outside = [t for t in times if not min(tspan) <= t <= max(tspan)]
    if outside:
        raise TimeSpanError(f"tstops has {len(outside)} times outside tspan {tspan}, the first {outside[0]}")
    return tuple(times)


def _number(name: str, value: float) -> float:
    number = check_number(name, value)
    if not math.isfinite(number):
        raise OptionError(f"{name} = {number} is not finite")
    return number


def _check_constants(options: StepOptions) -> None:
    rules: dict[str, tuple[str, Callable[[float], bool]]] = {
        "gamma": ("0 < gamma <= 1", lambda x: 0 < x <= 1),
        "qmin": ("0 < qmin < 1, or no rejected step shrinks", lambda x: 0 < x < 1),
        "qmax": ("qmax > 1, or no step grows", lambda x: x > 1),
        "beta1": ("beta1 > 0", lambda x: x > 0),
        "beta2": ("beta2 >= 0", lambda x: x >= 0),
        "qsteady_min": ("qsteady_min > 0", lambda x: x > 0),
        "qsteady_max": ("qsteady_max > 0", lambda x: x > 0),
    }
    for name, value in options.constants.items():
        rule, holds = rules[name]
        if not holds(value):
            raise OptionError(f"{name} = {value:g}: the controller needs {rule}")
    low, high = options.qsteady_min, options.qsteady_max
    if low is not None and high is not None and low > high:
        raise OptionError(
            f"qsteady_min = {low:g} is above qsteady_max = {high:g}: no step would stay as it is"
        )


def _check_bounds(options: StepOptions, tspan: tuple[float, float], dt: float | None) -> None:
    span = abs(tspan[1] - tspan[0])
    dtmin, dtmax = options.dtmin, options.dtmax
    if dtmin is not None and not 0 < dtmin < span:
        raise TimeSpanError(f"dtmin = {dtmin:g} must be above 0 and below the span's length {span:g}")
    if dtmax is not None and not dtmax > max(0.0, dtmin or 0.0):
        least = "0" if dtmin is None else f"dtmin = {dtmin:g}"
        raise TimeSpanError(f"dtmax = {dtmax:g} must be above {least}")
    if dt is not None and not (dtmin or 0.0) < abs(dt) <= (math.inf if dtmax is None else dtmax):
        raise TimeSpanError(
            f"dt = {abs(dt):g} must be above dtmin = {dtmin or 0:g} and not above dtmax = {dtmax or span:g}"
        )
