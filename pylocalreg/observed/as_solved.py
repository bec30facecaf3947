"""What a solve's dynamics held, so that its steps can be taken again as they were."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

import torch

from pylocalreg.errors import ChangedError
from pylocalreg.observed.reached import Substituting

T = TypeVar("T")


class AsSolved:
    """Parameters, buffers and modes of the modules that a solve calls, for calls of them later on."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.held = modules
        # a weight that several modules share has several slots, a module that several hold has one
        named = {id(module): (path, module) for path, module in _named_modules(modules)}.values()
        self.modules = [module for _, module in named]
        self.training = [module.training for module in self.modules]
        self.slots = [
            (f"{path}.{name}", module, name, x)
            for path, module in named
            for name, x in module._parameters.items()
            if x is not None
        ]
        self.buffers: dict[str, torch.Tensor] = {}
        self.tensors: tuple[torch.Tensor, ...] = ()

    def keep(self, tensors: Sequence[torch.Tensor]) -> None:
        """The solve is done: what its steps have to be taken again with.

        Buffers are copied. Of the ``tensors``, which gradients are wanted by, version and content are kept:
        copies, or checksums where there are many elements.
        """
        if any(module._buffers for module in self.modules):
            each = ((path, module._buffers) for path, module in _named_modules(self.held))
            every = ((f"{path}.{name}", x) for path, buffers in each for name, x in buffers.items())
            self.buffers = {name: x.detach().clone() for name, x in every if x is not None}
        self.tensors = tuple(tensors)
        self.versions = [_version(x) for x in tensors]
        self.content = _bits if sum(x.numel() for x in tensors) <= COPIED else _checksum
        self.contents = [self.content(x).clone() for x in tensors]

    def check(self) -> None:
        """Raise `ChangedError` where a tensor that a gradient is wanted by has another value."""
        for x, version, kept in zip(self.tensors, self.versions, self.contents, strict=True):
            if _version(x) != version or not torch.equal(self.content(x), kept):
                raise changed(x)

    def lending(
        self, aliases: Mapping[int, torch.Tensor], run: Callable[[bool], T], again: bool = False
    ) -> T:
        """``run``, while the modules hold what they held, or what ``aliases`` has for it by its id. It is
        told whether that is something else than what they hold now.

        ``again`` is for a solve that is done: buffers and modes are its own too, and what is written to them
        moves nothing.
        """
        other: dict[str, torch.Tensor] = {}
        for path, module, name, x in self.slots:
            wanted = aliases.get(id(x), x)
            if module._parameters.get(name) is not wanted:
                other[path] = wanted
        if again:
            other |= {name: buffer.clone() for name, buffer in self.buffers.items()}
        named = {id(x) for *_, x in self.slots}
        hidden = {key: alias for key, alias in aliases.items() if key not in named}
        modes = [module.training for module in self.modules]
        with ExitStack() as stack:
            if again and modes != self.training:
                stack.callback(_set_modes, self.modules, modes)
                _set_modes(self.modules, self.training)
            if hidden:
                stack.enter_context(Substituting(hidden))
            if not other:
                return run(bool(hidden))
            lending = _Lending(torch.nn.ModuleList(self.held))
            result: T = torch.func.functional_call(lending, other, (run,), tie_weights=False)
            return result


def _named_modules(modules: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Module]]:
    """As `_Lending` names them."""
    for i, module in enumerate(modules):
        yield from module.named_modules(prefix=f"held.{i}")


class _Lending(torch.nn.Module):
    """Something run while ``held`` is lent other tensors."""

    def __init__(self, held: torch.nn.ModuleList) -> None:
        super().__init__()
        self.held = held

    def forward(self, run: Callable[[bool], T]) -> T:
        return run(True)


def changed(x: torch.Tensor) -> ChangedError:
    return ChangedError(
        f"a tensor of shape {tuple(x.shape)} ({x.dtype}) that a solve depends on was changed after it (by an "
        "optimizer's step, in place, through .data or by .to()): its steps can not be taken again for the "
        "gradient. Call backward before it is changed"
    )


def _set_modes(modules: Sequence[torch.nn.Module], training: Sequence[bool]) -> None:
    for module, mode in zip(modules, training, strict=True):
        module.training = mode


def _version(x: torch.Tensor) -> tuple[object, ...]:
    return x.dtype, x.device, x.shape, None if x.is_inference() else x._version


COPIED = 2**18
"""Elements of all tensors together, a megabyte of float32."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(x: torch.Tensor) -> torch.Tensor:
    """The elements as integers, which a NaN is equal to itself among."""
    x = x.detach().resolve_conj().resolve_neg()
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.view(_INTEGERS[x.element_size()])


def _checksum(x: torch.Tensor) -> torch.Tensor:
    """A sum of all elements' bits, each with an odd weight of its own: another where one element is."""
    bits = _bits(x).reshape(-1)
    return (bits * torch.arange(1, 2 * len(bits) + 1, 2, device=x.device)).sum()
