"""What an Adams step remembers of the steps before it."""

from dataclasses import dataclass

import torch

ORDER = 3  # slopes that a step is made of


@dataclass(frozen=True)
class Slope:
    """k = f(t, u) at the start of a step of size ``dt``."""

    t: float
    u: torch.Tensor
    k: torch.Tensor
    dt: float


History = tuple[Slope, ...]
"""Earlier steps' slopes, the latest first: two, or fewer while the method starts."""


def is_start(history: History) -> bool:
    """Whether there are too few slopes for an Adams step."""
    return len(history) < ORDER - 1
