"""Another library's names and options, as far as they are served; the others are refused by name."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from pylocalreg.checks import short
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.errors import OptionError


def solver_of(method: str, served: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """The solver that serves another library's ``method``; the names of pylocalreg's own serve too.

    ``absent`` are the library's that have no counterpart, each with the solver to take instead.

    Raises:
        OptionError: there is none.
    """
    if isinstance(method, str) and method in served:
        return served[method]
    if isinstance(method, str) and method in METHODS:
        return method
    advice = f"method={absent[method]!r} is the nearest" if method in absent else f"choose one of {[*served]}"
    raise OptionError(f"method = {short(method)} is not served here: {advice}")


def take(options: Mapping[str, Any], served: Collection[str], absent: Mapping[str, str]) -> dict[str, Any]:
    """A copy of the options, None left out.

    ``absent`` says of options that are not served what is there instead.

    Raises:
        OptionError: one is not served, or unknown.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name in absent:
            raise OptionError(f"option {name} = {short(given[name])} is not served here: {absent[name]}")
        if name not in served:
            raise OptionError(f"option {name!r} is unknown here: choose from {sorted(served)}")
    return given


def times_of(t: torch.Tensor) -> list[Any]:
    """The times as numbers, or where they want a gradient as tensors."""
    return list(t.unbind()) if t.requires_grad else t.tolist()
