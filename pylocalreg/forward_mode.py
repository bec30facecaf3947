"""Forward-mode differentiation, one thread at a time: torch has one level of it for all threads."""

import threading
from collections.abc import Callable

import torch
from torch.autograd.forward_ad import _set_fwd_grad_enabled, dual_level, make_dual, unpack_dual

_lock = threading.RLock()
Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]


def derivative_along(f: Function, at: Pair, along: Pair) -> torch.Tensor:
    """The derivative of ``f(t, u)`` at (t, u) along a direction, of ``u``'s dtype; may be nested."""
    derivative: torch.Tensor
    with _lock:
        _, derivative = torch.func.jvp(f, at, along)  # type: ignore[misc]
    return derivative.to(at[1].dtype)  # torch makes float64 of a float32 t's tangent times a Python float


def plain_derivative_along(f: Function, at: Pair, along: Pair) -> torch.Tensor:
    """As `derivative_along`, of a call without function transforms; not to be nested.

    A transform may compute an operation in another way: under ``torch.func`` the fused dropout of a GPU
    becomes several operations, and these draw another mask. A plain call draws what every other call does.
    """
    # a function of autograd, which a solve is, turns it off within
    with _lock, _set_fwd_grad_enabled(True), dual_level():  # type: ignore[no-untyped-call]
        t, u = (make_dual(x, d) for x, d in zip(at, along, strict=True))  # type: ignore[no-untyped-call]
        derivative = unpack_dual(f(t, u)).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(at[1]) if derivative is None else derivative.to(at[1].dtype)
