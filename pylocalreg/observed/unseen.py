"""Dynamics that leave PyTorch: whether what comes of it is in their graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import GradientEdge

from pylocalreg.errors import OptionError
from pylocalreg.observed.nearby import contradicted, direction
from pylocalreg.observed.reached import Edge

Call = Callable[[torch.Tensor, torch.Tensor], Any]


def check_seen(f: Call, t: torch.Tensor, u: torch.Tensor, k: torch.Tensor, start: Edge | None) -> None:
    """Refuse dynamics that hand elements to something else and change with the state in a way that the graph
    of ``k`` = f(t, u) does not have, from the state at ``start``, or from nowhere. What they only detach, and
    what they only look at to choose a branch or to keep a log, is their own affair.

    Raises:
        OptionError: the gradient would be wrong.
    """
    with torch.no_grad():
        lost = _changes(f, t, u) if start is None else _changes_otherwise(f, t, u, k, start)
    if lost:
        raise OptionError(
            "the dynamics change with the state that they are given, but autograd does not see how, or sees "
            "a part alone: they leave PyTorch (by numpy, item(), float(), for Julia through juliacall), and "
            "the gradient would be wrong. Write them in PyTorch (u.detach() where a part is meant to have no "
            "gradient), give a Julia function as plr.julia.function(f), or solve within torch.no_grad()"
        )


def _changes(f: Call, t: torch.Tensor, u: torch.Tensor) -> bool:
    """At two states beside the one that is solved from, which may lie just where the dynamics switch."""
    h = torch.finfo(u.dtype).eps ** 0.5 * (1 + u.abs())
    one, other = f(t, u + h), f(t, u + 2 * h)
    return isinstance(one, torch.Tensor) and bool(one.isfinite().all()) and not torch.equal(one, other)


def _changes_otherwise(f: Call, t: torch.Tensor, u: torch.Tensor, k: torch.Tensor, start: Edge) -> bool:
    """Whether a weighted sum of k has another derivative along a direction than its graph says."""
    weights, along = direction(k), direction(u, phase=1.0)
    (by_state,) = torch.autograd.grad(k, [GradientEdge(*start)], weights)

    def at(h: float) -> torch.Tensor:
        moved: torch.Tensor = f(t, u + h * along)
        return (moved * weights).sum()

    return contradicted((by_state * along).sum(), at, u) is not None
