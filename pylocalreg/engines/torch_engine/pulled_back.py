"""One pullback by autograd, of which a discrete adjoint makes one for every stage."""

from collections.abc import Sequence

import torch

_engine = torch.autograd.Variable._execution_engine


def pulled_back(
    k: torch.Tensor, wanted: Sequence[torch.Tensor], cotangent: torch.Tensor, keep_graph: bool = False
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of <cotangent, k> by what is ``wanted``; None where ``k`` does not depend on it.

    As ``torch.autograd.grad``, without its checks in Python that the cotangent is of ``k``'s shape, which it
    is here: they take a third of the time that the pullback through a small network does. What it calls is
    PyTorch's own and in no documentation: a version with other arguments fails at the first pullback.
    """
    gradients: tuple[torch.Tensor | None, ...] = _engine.run_backward(
        (k,), (cotangent,), keep_graph, False, tuple(wanted), allow_unreachable=True, accumulate_grad=False
    )
    return gradients
