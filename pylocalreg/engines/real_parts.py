"""Gradients by parameters in one real vector, as adjoint systems and Julia have them: a complex parameter is
there as pairs of its real and imaginary parts, a sparse gradient as a dense one.
"""

from collections.abc import Sequence

import torch


def real(x: torch.Tensor) -> torch.Tensor:
    """As it is, or the parts of a complex one in a last dimension; dense."""
    dense = x if x.layout is torch.strided else x.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if x.is_complex() else dense


def real_size(params: Sequence[torch.Tensor]) -> int:
    """Elements of the vector."""
    return sum(_size(p) for p in params)


def real_pieces(vector: torch.Tensor, params: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Each parameter's part of the vector, which may be longer."""
    sizes = [_size(p) for p in params]
    pieces: Sequence[torch.Tensor] = torch.split(vector[: sum(sizes)], sizes)
    return pieces


def from_real(vector: torch.Tensor, params: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each parameter's part in the parameter's shape, a complex one of numbers of its own."""
    pieces = zip(real_pieces(vector, params), params, strict=True)
    return [
        torch.complex(piece[::2], piece[1::2]).view(p.shape) if p.is_complex() else piece.view(p.shape)
        for piece, p in pieces
    ]


def _size(p: torch.Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)
