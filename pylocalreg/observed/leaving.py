"""Whether a computation leaves PyTorch, for numpy, for Julia, for Python's own numbers, or only its graph."""

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

DETACHING = frozenset((torch.Tensor.detach, torch.Tensor.detach_, torch.Tensor.data.__get__))  # type: ignore[attr-defined]


class Leaving(TorchFunctionMode):
    """Within, sees tensors' elements handed to something else, or what other ``ways`` there are."""

    left = False

    def __init__(self, ways: frozenset[Any] = WAYS_OUT) -> None:
        super().__init__()
        self.ways = ways

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left |= func in self.ways
        return func(*args, **(kwargs or {}))
