"""The tensors and sources of random numbers that a callable holds: in attributes, closures and globals."""

import functools
import random
import types
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch

SEARCHED = 2_000  # objects looked into: a callable may hold a whole program
Held: TypeAlias = torch.Tensor | torch.nn.Module | torch.Generator | np.random.Generator | types.ModuleType
"""A tensor, a module of layers, a generator, or what draws by a global one: ``random`` and ``numpy``."""
DRAWING = (random, np, np.random)
_ENDS = (torch.Tensor, torch.Generator, np.random.Generator, types.ModuleType)
_OPAQUE = (
    str,
    bytes,
    int,
    float,
    complex,
    type,
    np.ndarray,
    types.BuiltinFunctionType,
    torch.dtype,
    torch.device,
    torch.Size,
)


def held_by(f: Any) -> Iterator[Held]:
    """Nearest first, each once; of modules the modules, not their parameters and buffers."""
    seen = {id(f)}
    waiting: deque[Any] = deque([f])
    while waiting and len(seen) < SEARCHED:
        at = waiting.popleft()
        if isinstance(at, torch.nn.Module):
            yield at
        elif isinstance(at, _ENDS):
            yield at
            continue
        for inner in _inside(at):
            if id(inner) in seen or inner is None or isinstance(inner, _OPAQUE):
                continue
            if not isinstance(inner, types.ModuleType) or inner in DRAWING:
                seen.add(id(inner))
                waiting.append(inner)


def _inside(at: Any) -> Iterator[Any]:
    if isinstance(at, torch.nn.Module):
        yield from at._modules.values()
        # those of torch.nn hold numbers beside parameters and modules
        if not type(at).__module__.startswith("torch.nn."):
            yield from (value for name, value in vars(at).items() if name not in _OF_MODULES)
            yield getattr(type(at), "forward", None)
    elif isinstance(at, types.MethodType):
        yield from (at.__self__, at.__func__)
    elif isinstance(at, types.FunctionType):
        yield from (cell.cell_contents for cell in at.__closure__ or () if _filled(cell))
        yield from at.__defaults__ or ()
        yield from (at.__kwdefaults__ or {}).values()
        yield from (at.__globals__[name] for name in _names(at.__code__) if name in at.__globals__)
    elif isinstance(at, functools.partial):
        yield from (at.func, *at.args, *at.keywords.values())
    elif isinstance(at, dict):
        yield from at.values()
    elif isinstance(at, list | tuple | set | frozenset | deque):
        yield from at
    elif hasattr(at, "__dict__"):
        yield from vars(at).values()


_OF_MODULES = frozenset(vars(torch.nn.Module()))


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is not bound yet
        return False


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that a function names, and those of functions defined in it."""
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return (*code.co_names, *inner)
