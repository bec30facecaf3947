"""Order conditions of a Runge-Kutta method (Butcher), one for each rooted tree."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

HIGHEST = 8
"""The order's limit: 200 conditions."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tree:
    """A rooted tree, as the trees that hang from its root."""

    branches: tuple["Tree", ...] = ()

    @cached_property
    def order(self) -> int:
        return 1 + sum(branch.order for branch in self.branches)

    @cached_property
    def density(self) -> int:
        return self.order * math.prod(branch.density for branch in self.branches)

    def weights(self, A: Array, c: Array) -> Array:
        """Of each stage the product that the tree stands for; its condition is b^T weights = 1 / density."""
        product = np.ones(len(c))
        for branch in self.branches:
            product = product * (A @ branch.weights(A, c) if branch.branches else c)
        return product

    def __str__(self) -> str:
        """The product as numpy would write it, stage by stage: (A @ c) * c."""
        factors = ["c"] * len(self.branches)
        for i, branch in enumerate(self.branches):
            if branch.branches:
                factors[i] = f"(A @ {branch})" if len(branch.branches) == 1 else f"(A @ ({branch}))"
        return " * ".join(factors) or "1"


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """Every rooted tree of this order."""
    return tuple(Tree(branches) for branches in _forests(order - 1, order - 1))


def _forests(total: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """Every multiset of trees with ``total`` nodes together, none of more than ``largest``."""
    if total == 0:
        yield ()
        return
    for size in range(min(total, largest), 0, -1):
        for count in range(1, total // size + 1):
            for some in combinations_with_replacement(trees(size), count):
                for rest in _forests(total - size * count, size - 1):
                    yield some + rest


def first_unmet(
    b: Sequence[float], A: Array, c: Array, order: int, tolerance: float
) -> tuple[Tree, float] | None:
    """The first condition up to this order that b^T weights misses by more than the tolerance, with its
    value; None where all hold.
    """
    weights = np.asarray(b)
    for p in range(1, order + 1):
        for tree in trees(p):
            products = tree.weights(A, c)
            value = float(weights @ products)
            scale = max(1.0, float(abs(weights) @ abs(products)))
            if not abs(value - 1 / tree.density) <= tolerance * scale:
                return tree, value
    return None
