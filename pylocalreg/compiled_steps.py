"""What the steps of a module were compiled to: kept for all of its solves."""

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

KEPT = 32
"""Compiled functions a module keeps: the one longest not used goes first."""


class CompiledSteps:
    """Functions by what they were compiled for; says once why there are none. Copies start empty."""

    def __init__(self) -> None:
        self._functions: OrderedDict[Hashable, Any] = OrderedDict()
        self._refused: set[str] = set()
        self._said = False
        self._made: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The function of ``key``, made now where there is none."""
        with self._lock:
            if key in self._functions:
                self._functions.move_to_end(key)
                kept: T = self._functions[key]
                return kept
        made = make()
        with self._lock:
            self._functions[key] = made
            if len(self._functions) > KEPT:
                self._functions.popitem(last=False)
        return made

    def made(self, what: Hashable) -> int:
        """Counts: how often this was asked."""
        self._made[what] += 1
        return self._made[what]

    def refuse(self, what: str, error: Exception | str, quietly: bool = False) -> None:
        """``what`` runs uncompiled from now on. A warning says so, the first time."""
        self._refused.add(what)
        if not quietly and not self._said:
            self._said = True
            lines = (str(error).strip() or type(error).__name__).splitlines()
            reason = " ".join(lines[:2])  # the compiler's first line ends in "raised:"
            warnings.warn(f"compile=True: {what} runs uncompiled: {reason}", stacklevel=2)

    def refused(self, what: str) -> bool:
        return what in self._refused

    def __iter__(self) -> Iterator[Any]:
        """What is kept."""
        return iter(list(self._functions.values()))

    def __deepcopy__(self, memo: Any) -> "CompiledSteps":
        return CompiledSteps()

    def __reduce__(self) -> tuple[type["CompiledSteps"], tuple[()]]:
        return CompiledSteps, ()
