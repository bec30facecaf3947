"""What one call of the dynamics computes with: the key to work that was recorded from such a call."""

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations inside, their numbers, and where the tensors lie that were not made inside.

    Two calls with equal keys, given tensors of the same shapes, launch the same kernels over the same memory.
    Kernels that are launched past PyTorch's dispatcher are not seen.
    """

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._given = list(given)  # held, so that no other tensor gets their memory
        self._made = {_memory(x): i for i, x in enumerate(self._given)}
        self._held: list[Any] = []
        self._noted: list[Hashable] = []
        self.reads_back = False
        """Whether elements were read by the host, or moved between devices: no graph holds that."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        noted = (str(func), *(self._of(x) for x in tree_leaves((args, kwargs))))
        result = func(*args, **kwargs)
        tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.reads_back |= func in _READ_BACK or any(x.device != self._given[0].device for x in tensors)
        entering = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x for x in tensors if _memory(x) not in entering]
        if made or func._schema.is_mutable:  # a view computes nothing
            self._noted.append(noted)
            self._held.append(made)
            for x in made:
                self._made[_memory(x)] = len(self._given) + len(self._noted)
        return result

    @property
    def key(self) -> Hashable:
        return tuple(self._noted)

    def _of(self, x: Any) -> Hashable:
        if not isinstance(x, torch.Tensor):
            return repr(x)
        of = x.dtype, x.device, tuple(x.shape), x.stride()
        made = self._made.get(_memory(x))
        if made is not None:
            return *of, made, x.storage_offset()
        value = x.item() if x.device.type == "cpu" and x.dim() == 0 else None  # which a kernel is handed
        return *of, x.data_ptr(), value


_aten = torch.ops.aten
_READ_BACK = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
}


def _memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()
