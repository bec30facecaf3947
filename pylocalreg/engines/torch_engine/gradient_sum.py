"""Gradients by parameters, summed over the steps of a solve."""

from collections.abc import Sequence

import torch


class GradientSum:
    """Summed in place; None for a parameter that nothing depends on."""

    def __init__(self, count: int) -> None:
        self._sums: list[torch.Tensor | None] = [None] * count

    @property
    def tensors(self) -> list[torch.Tensor | None]:
        return self._sums

    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                present = self._sums[i]
                # autograd may hand out one tensor for several parameters: own the one written to
                self._sums[i] = gradient.clone() if present is None else present.add_(gradient)
