"""Tensors as they cross to Julia, which reads their memory."""

import torch


def plain(x: torch.Tensor) -> torch.Tensor:
    """Contiguous, without a graph, and no view that one bit negates, as ``z.conj().imag`` is."""
    return x.detach().resolve_neg().contiguous()
