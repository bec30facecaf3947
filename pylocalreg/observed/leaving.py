"""Whether a computation leaves PyTorch: for numpy, for Julia, for Python's own numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WAYS_OUT = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        "__array__",
        "__dlpack__",
        "__float__",
        "__int__",
        "data_ptr",
        "item",
        "numpy",
        "tolist",
        "untyped_storage",
    )
)


class Leaving(TorchFunctionMode):
    """Within, sees tensors' elements handed to something else."""

    left = False

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left |= func in WAYS_OUT
        return func(*args, **(kwargs or {}))
