"""What a solve's dynamics held, so that its steps can be taken again as they were."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

import torch

from pylocalreg.errors import ChangedError
from pylocalreg.observed.reached import Substituting

T = TypeVar("T")


class AsSolved:
    """Parameters, buffers and modes of the modules that a solve calls, for calls of them later on."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.held = torch.nn.ModuleList(modules)
        self.parameters = _named(self.held, "_parameters")
        self.training = [module.training for module in self.held.modules()]
        self.buffers: dict[str, torch.Tensor] = {}
        self.tensors: tuple[torch.Tensor, ...] = ()

    def keep(self, tensors: Sequence[torch.Tensor]) -> None:
        """The solve is done: what its steps have to be taken again with.

        Buffers are copied. Of the ``tensors``, which gradients are wanted by, version and checksum are kept.
        """
        buffers = _named(self.held, "_buffers")
        self.buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        self.tensors = tuple(tensors)
        self.versions = [_version(x) for x in tensors]
        self.checksums = [_checksum(x) for x in tensors]

    def check(self) -> None:
        """Raise `ChangedError` where a tensor that a gradient is wanted by has another value."""
        for x, version, checksum in zip(self.tensors, self.versions, self.checksums, strict=True):
            if _version(x) != version or not torch.equal(_checksum(x), checksum):
                raise changed(x)

    def lending(
        self, aliases: Mapping[int, torch.Tensor], run: Callable[[bool], T], again: bool = False
    ) -> T:
        """``run``, while the modules hold what they held, or what ``aliases`` has for it by its id. It is
        told whether that is something else than what they hold now.

        ``again`` is for a solve that is done: buffers and modes are its own too, and what is written to them
        moves nothing.
        """
        now = _named(self.held, "_parameters")
        named = {id(parameter) for parameter in self.parameters.values()}
        hidden = {key: alias for key, alias in aliases.items() if key not in named}
        other = {name: aliases.get(id(x), x) for name, x in self.parameters.items()}
        other = {name: x for name, x in other.items() if now.get(name) is not x}
        if again:
            other |= {name: buffer.clone() for name, buffer in self.buffers.items()}
        modules = list(self.held.modules())
        modes = [module.training for module in modules]
        with ExitStack() as stack:
            if again and modes != self.training:
                stack.callback(_set_modes, modules, modes)
                _set_modes(modules, self.training)
            if hidden:
                stack.enter_context(Substituting(hidden))
            if not other:
                return run(bool(hidden))
            lent = {f"held.{name}": x for name, x in other.items()}
            result: T = torch.func.functional_call(_Lending(self.held), lent, (run,), tie_weights=False)
            return result


def _named(held: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """Every parameter or buffer of every module, once for each module that holds it: a weight that several
    share has several names, a module that several hold has one.
    """
    modules = held.named_modules()
    return {
        f"{path}.{name}": x for path, m in modules for name, x in getattr(m, kind).items() if x is not None
    }


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


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksum(x: torch.Tensor) -> torch.Tensor:
    """A sum of all elements' bits, each with an odd weight of its own: another where one element is."""
    bits = x.detach().contiguous().view(_BITS[x.element_size()]).reshape(-1)
    weights = torch.arange(1, 2 * len(bits), 2, device=x.device)
    return (bits * weights).sum()
