"""Tensors put side by side in a function that is compiled."""

import torch


def together(*tensors: torch.Tensor) -> torch.Tensor:
    """As ``torch.stack(tensors, -1)``, in whose place inductor gives each its own place in memory."""
    place = torch.arange(len(tensors), device=tensors[0].device)
    given = tensors[0].unsqueeze(-1)
    for i, tensor in enumerate(tensors[1:], 1):
        given = torch.where(place == i, tensor.unsqueeze(-1), given)
    return given
