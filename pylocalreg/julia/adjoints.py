"""The adjoints of SciMLSensitivity, by name with their own keywords."""

import math
from typing import Any

from pylocalreg.checks import short
from pylocalreg.engines.algorithm import Algorithm, Sensitivity
from pylocalreg.errors import OptionError

ADJOINTS = (
    "BacksolveAdjoint",
    "ForwardDiffSensitivity",
    "GaussAdjoint",
    "GaussKronrodAdjoint",
    "InterpolatingAdjoint",
    "QuadratureAdjoint",
)
VJPS = ("ReverseDiffVJP", "ZygoteVJP")
"""EnzymeVJP and TrackerVJP do not see through pylocalreg's dynamics, or were never tried on them."""


def adjoint(name: str, **options: Any) -> Sensitivity:
    """A sensitivity algorithm of the stack as ``adjoint=``, for ``engine="julia"``.

    Args:
        name: that of the algorithm in SciMLSensitivity: one of `ADJOINTS`. ForwardDiffSensitivity solves with
            the derivatives by the initial state and every parameter beside the state: for few of them.
        options: the algorithm's own keywords: numbers and truth values, and ``autojacvec``, by which the
            pullback of the dynamics is taken: ``"ZygoteVJP"`` (by default) by their own, PyTorch's where they
            are a PyTorch function; of layers also ``"ReverseDiffVJP"``, or False for their whole Jacobian.

    Raises:
        OptionError: for what can be none of these. What the stack refuses of it is refused where it is solved
            with.
    """
    if name not in ADJOINTS:
        raise OptionError(
            f"adjoint({short(name)}): choose one of {list(ADJOINTS)}; what differentiates through the "
            "solver's steps is adjoint='discrete'"
        )
    if name != "ForwardDiffSensitivity":
        options.setdefault("autojacvec", "ZygoteVJP")
    rows = tuple((key, _option(name, key, value)) for key, value in options.items())
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    return Sensitivity.named(f"{name}({shown})", name, (), rows)


def _option(name: str, key: str, value: Any) -> Any:
    if key == "autojacvec" and value in VJPS:
        # the gradient by what the dynamics do not use is nothing, and counts as zero
        more = (("allow_nothing", True),) if value == "ZygoteVJP" else ()
        return Algorithm.named(value, value, (), more).row
    if isinstance(value, str):
        known = (
            f"choose one of {list(VJPS)}, or False; Enzyme and Tracker do not see through "
            "pylocalreg's dynamics"
            if key == "autojacvec"
            else "it takes no string"
        )
        raise OptionError(f"adjoint({name!r}): {key} = {value!r}: {known}")
    if isinstance(value, bool | int) or (isinstance(value, float) and not math.isnan(value)):
        return value
    raise OptionError(f"adjoint({name!r}): {key} = {short(value)}: give a number, True or False")
