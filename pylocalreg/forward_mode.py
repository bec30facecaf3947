"""Forward-mode differentiation, one thread at a time: torch has one level of it for all threads."""

import threading
from collections.abc import Callable

import torch

_lock = threading.RLock()
Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def derivative_along(
    f: Function, at: tuple[torch.Tensor, torch.Tensor], along: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """The derivative of ``f(t, u)`` at (t, u) along a direction, of ``u``'s dtype; may be nested."""
    derivative: torch.Tensor
    with _lock:
        _, derivative = torch.func.jvp(f, at, along)  # type: ignore[misc]
    return derivative.to(at[1].dtype)  # torch makes float64 of a float32 t's tangent times a Python float
