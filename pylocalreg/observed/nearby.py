"""A derivative held against the values around it."""

from collections.abc import Callable

import torch


def contradicted(seen: torch.Tensor, at: Callable[[float], torch.Tensor], u: torch.Tensor) -> float | None:
    """How far a derivative ``seen`` by autograd is off, where differences of the values ``at(h)`` around
    h = 0, a place of ``u``'s size, say so, those further off and those closer by alike. Where they differ, or
    the place itself lies off the line, there is a switch among them, and nothing is known.
    """
    eps = torch.finfo(u.dtype).eps
    h = eps ** (1 / 3) * max(1.0, float(u.abs().max()))
    before, here, after = at(-h), at(0.0), at(h)
    closer, further = (after - before) / (2 * h), (at(4 * h) - at(-4 * h)) / (8 * h)
    apart, size = float((closer - seen).norm()), float(seen.norm())
    alike = float((further - closer).norm()) < 0.1 * apart
    on_the_line = float(((after - here) / h - closer).norm()) < apart
    return apart if alike and on_the_line and apart > eps**0.25 * max(size, apart) else None


def direction(like: torch.Tensor, phase: float = 0.0) -> torch.Tensor:
    """One that no symmetry of the dynamics is orthogonal to; another for each ``phase``."""
    places = torch.arange(1, like.numel() + 1, dtype=like.dtype, device=like.device)
    return (places + phase).cos().view_as(like)
