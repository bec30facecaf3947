"""The random numbers that dynamics draw: the same at every call of a solve and of its replays."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

from pylocalreg.observed.held import Held

Source: TypeAlias = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How the state of a generator is read, and how it is set."""


_CPU: Source = (torch.default_generator.get_state, torch.default_generator.set_state)
_NO_SOURCES = (torch.Tensor, torch.nn.Module)


class Draws:
    """The states of the generators that dynamics may draw from: torch's on the CPU and on the state's device,
    and those that the dynamics hold, Python's and numpy's global ones among them where they name these.
    """

    def __init__(self, device: torch.device, held: Iterable[Held] = ()) -> None:
        sources = {id(torch.default_generator): _CPU}
        for at in (*_of_device(device), *held):
            if not isinstance(at, _NO_SOURCES):
                key, source = _source(at)
                sources[key] = source
        self._sources = list(sources.values())
        self.start = self._states()

    def moved(self) -> bool:
        """Whether anything was drawn since."""
        return not all(map(_same, self.start, self._states()))

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within, the generators draw what they drew from the start; outside nothing is seen of it."""
        now = self._states()
        self._put(self.start)
        try:
            yield
        finally:
            self._put(now)

    def _states(self) -> list[Any]:
        return [get() for get, _ in self._sources]

    def _put(self, states: list[Any]) -> None:
        for (_, put), state in zip(self._sources, states, strict=True):
            put(state)


def _of_device(device: torch.device) -> list[torch.Generator]:
    if device.type != "cuda":
        return []
    torch.cuda.init()  # type: ignore[no-untyped-call]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.cuda.default_generators[index]]


def _source(at: torch.Generator | np.random.Generator | ModuleType) -> tuple[int, Source]:
    if isinstance(at, torch.Generator):
        return id(at), (at.get_state, at.set_state)
    if isinstance(at, np.random.Generator):
        bits = at.bit_generator
        return id(bits), (lambda: bits.state, lambda state: setattr(bits, "state", state))
    if at is random:
        return id(random), (random.getstate, random.setstate)
    state = np.random.get_state
    return id(np.random), (lambda: state(legacy=False), np.random.set_state)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)
