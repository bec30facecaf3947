"""States that are tuples or dicts of tensors, laid out in the one tensor that an engine solves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pylocalreg.checks import check_state
from pylocalreg.errors import DeviceError, DtypeError, ShapeError
from pylocalreg.observed.output import check_output

State = torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]


def mapped(u0: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The state with every tensor of it changed; what is no state is left for `layout_of` to refuse."""
    if isinstance(u0, torch.Tensor):
        return change(u0)
    if isinstance(u0, dict):
        return {key: mapped(part, change) for key, part in u0.items()}
    return tuple(mapped(part, change) for part in u0) if isinstance(u0, tuple) else u0


def device_of(u0: State) -> torch.device:
    """Where a state, or its first part, is."""
    if isinstance(u0, torch.Tensor):
        return u0.device
    return next(iter(u0.values() if isinstance(u0, dict) else u0)).device


class Layout(ABC):
    """Between a user's state and the solved tensor."""

    @abstractmethod
    def pack(self, state: Any) -> torch.Tensor:
        """The solved tensor."""

    @abstractmethod
    def unpack(self, solved: torch.Tensor) -> State:
        """The user's state, views of ``solved``; dimensions before the state's own are kept."""

    @abstractmethod
    def check(self, given: Any, t: torch.Tensor, like: torch.Tensor, name: str = "dynamics") -> None:
        """Raise where a user's function ``name`` gave something else than a state; ``like`` is a solved
        one.
        """

    @abstractmethod
    def dynamics(self, f: torch.nn.Module) -> torch.nn.Module:
        """The dynamics of the solved tensor, where ``f`` is that of the user's state."""


def layout_of(u0: Any) -> Layout:
    """The layout of states like ``u0``.

    Raises:
        ShapeError, DtypeError, DeviceError: ``u0`` can not be solved.
    """
    if isinstance(u0, tuple | dict):
        return _Parts(u0)
    check_state(u0)
    return _Tensor()


class _Tensor(Layout):
    def pack(self, state: Any) -> torch.Tensor:
        packed: torch.Tensor = state.contiguous()
        return packed

    def unpack(self, solved: torch.Tensor) -> State:
        return solved

    def check(self, given: Any, t: torch.Tensor, like: torch.Tensor, name: str = "dynamics") -> None:
        check_output(given, float(t.detach()), like, name)

    def dynamics(self, f: torch.nn.Module) -> torch.nn.Module:
        return f


class _Parts(Layout):
    """Part after part in one vector."""

    def __init__(self, u0: tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]) -> None:
        self.keys = list(u0) if isinstance(u0, dict) else list(range(len(u0)))
        self.kind = dict if isinstance(u0, dict) else tuple
        parts = self._parts(u0)
        if not parts:
            raise ShapeError(f"the state is an empty {self.kind.__name__}: give at least one tensor")
        for part in parts:
            check_state(part)
            if part.dtype != parts[0].dtype:
                raise DtypeError(
                    f"the state's parts are of {parts[0].dtype} and {part.dtype}: give one dtype"
                )
            if part.device != parts[0].device:
                raise DeviceError(
                    f"the state's parts are on {parts[0].device} and {part.device}: give one device"
                )
        self.dtype = parts[0].dtype
        self.shapes = [part.shape for part in parts]
        self.sizes = [part.numel() for part in parts]
        self.offsets = [sum(self.sizes[:i]) for i in range(len(parts))]

    def _parts(self, state: Any) -> Sequence[torch.Tensor]:
        if self.kind is dict:
            return [state[key] for key in self.keys]
        return list(state)

    def pack(self, state: Any) -> torch.Tensor:
        return torch.cat([part.reshape(-1) for part in self._parts(state)])

    def unpack(self, solved: torch.Tensor) -> State:
        leading = solved.shape[:-1]
        # each a view of its own, which dynamics may write to; of those that torch.split gives they may not
        pieces = [solved.narrow(-1, *place) for place in zip(self.offsets, self.sizes, strict=True)]
        parts = [piece.reshape((*leading, *shape)) for piece, shape in zip(pieces, self.shapes, strict=True)]
        if self.kind is dict:
            return dict(zip(self.keys, parts, strict=True))
        return tuple(parts)

    def dynamics(self, f: torch.nn.Module) -> torch.nn.Module:
        return _OfParts(f, self)

    def check(self, k: Any, t: torch.Tensor, like: torch.Tensor, name: str = "dynamics") -> None:
        """Raise `ShapeError` where ``k`` is something else than the state's parts."""
        same_kind = isinstance(k, Mapping) if self.kind is dict else isinstance(k, tuple | list)
        if same_kind and len(k) == len(self.keys) and (self.kind is tuple or set(k) == set(self.keys)):
            shapes = [getattr(part, "shape", None) for part in self._parts(k)]
            if shapes == self.shapes:
                self._check_dtypes(k, t, name)
                return
            got = str([shape and tuple(shape) for shape in shapes])
        else:
            got = f"a {type(k).__name__}" + (
                f" of {list(k) if self.kind is dict else len(k)}" if same_kind else ""
            )
        raise ShapeError(
            f"the {name} gave {got} at t = {float(t.detach()):.6g} for a state that is a "
            f"{self.kind.__name__} of {self.keys} with the shapes "
            f"{[tuple(shape) for shape in self.shapes]}: it must give such"
        )

    def _check_dtypes(self, k: Any, t: torch.Tensor, name: str) -> None:
        for part in self._parts(k):
            if part.dtype != self.dtype:  # put together, the parts would take on the wider one
                raise DtypeError(
                    f"the {name} gave a part of {part.dtype} at t = {float(t.detach()):.6g} for a state of "
                    f"{self.dtype}: move the module or the state to one dtype, as in module.to(u0.dtype)"
                )


class _OfParts(torch.nn.Module):
    def __init__(self, f: torch.nn.Module, layout: _Parts) -> None:
        super().__init__()
        self.f, self.layout = f, layout

    def forward(self, t: torch.Tensor, solved: torch.Tensor) -> torch.Tensor:
        k = self.f(t, self.layout.unpack(solved))
        self.layout.check(k, t, solved)
        return self.layout.pack(k)
