"""Which accepted steps a biased local regularizer takes, chosen while they are made."""

from typing import Literal

import numpy as np
import torch

from pylocalreg.regularizers.base import draw_seed

Importance = Literal["none", "uniform", "estimate"]


class Reservoirs:
    """Independent draws of one accepted step each, with replacement (weighted reservoir sampling).

    A step replaces an earlier choice with its share of the weight so far, so that of a whole solve only the
    states of the chosen steps are kept, and a draw has the same odds whatever the number of steps.

    Args:
        draws: how many.
        importance: ``"none"``: every step has the same chance, the sum of the weights is 1: a mean.
            ``"uniform"``: the same chance; the weights make the weighted sum's expectation that of the sum
            over all steps. ``"estimate"``: a step's chance is proportional to its estimate, the weights as
            in ``"uniform"``: the value is then the very sum, and its gradient has less variance.
        generator: gives the seed of this solve's draws.
    """

    def __init__(self, draws: int, importance: Importance, generator: torch.Generator | None) -> None:
        self._rng = np.random.default_rng(draw_seed(generator))
        self._importance = importance
        self._steps = 0
        self._total = 0.0
        self._chosen: list[tuple[int, float]] = [(0, 0.0)] * draws

    def offer(self, index: int, estimate: float) -> bool:
        """The next accepted step and its estimate; True where it replaces an earlier choice."""
        weight = estimate if self._importance == "estimate" else 1.0
        self._steps += 1
        self._total += weight
        replaced = False
        for slot, share in enumerate(self._rng.random(len(self._chosen))):
            if index == 0 or share * self._total < weight:
                self._chosen[slot] = (index, estimate)
                replaced = True
        return replaced

    @property
    def weights(self) -> dict[int, float]:
        """The chosen steps, by index, and each one's weight in the regularizer's sum."""
        weights: dict[int, float] = {}
        for index, estimate in self._chosen:
            if self._importance == "none":
                weight = 1.0
            elif self._importance == "uniform":
                weight = float(self._steps)
            else:
                weight = self._total / estimate if estimate else 0.0
            weights[index] = weights.get(index, 0.0) + weight / len(self._chosen)
        return weights
