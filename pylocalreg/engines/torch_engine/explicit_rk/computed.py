"""A value whose gradients by the parameters are computed with it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pylocalreg.engines.torch_engine.functional import Tensors

Gradients = Sequence[torch.Tensor | None]


def with_gradients(
    computed: tuple[torch.Tensor, Gradients],
    again: Callable[[], torch.Tensor],
    params: Sequence[torch.Tensor],
) -> torch.Tensor:
    """The value that was ``computed``, with its gradients by ``params``; computed ``again`` where those are
    differentiated.
    """
    value: torch.Tensor = _Computed.apply(computed, again, *params)  # type: ignore[no-untyped-call]
    return value


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        computed: tuple[torch.Tensor, Gradients],
        again: Callable[[], torch.Tensor],
        *params: torch.Tensor,
    ) -> torch.Tensor:
        value, ctx.gradients = computed
        ctx.again, ctx.params = again, params
        return value

    @staticmethod
    def backward(ctx: Any, by_value: torch.Tensor) -> Any:  # type: ignore[override]
        if torch.is_grad_enabled():
            gradients: Tensors = torch.autograd.grad(
                ctx.again(), ctx.params, by_value, create_graph=True, allow_unused=True
            )
            return None, None, *gradients
        return None, None, *(None if x is None else x * by_value for x in ctx.gradients)
