"""One call of a Julia model, differentiable by autograd."""

from typing import Any

import torch

from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.failures import refusals
from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.errors import DoubleBackwardError


class Evaluate(torch.autograd.Function):
    """f(t, u) and its pullback. Where no gradient is wanted the layers' running arrays follow the call."""

    @staticmethod
    def forward(
        ctx: Any,
        julia: Julia,
        model: Any,
        with_gradient: bool,
        t: torch.Tensor | float,
        u: torch.Tensor,
        p: torch.Tensor,
    ) -> torch.Tensor:
        time, state, params = float(t), plain(u), plain(p)
        if not with_gradient:
            value: torch.Tensor = julia.call("evaluate", model, time, state, params)
            return value
        value, ctx.back = julia.call("pull", model, time, state, params)
        ctx.julia, ctx.model, ctx.time = julia, model, t
        ctx.save_for_backward(u, p)  # refuses tensors that were written to since
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "models written in Julia have first derivatives only: call backward without create_graph=True"
            )
        u, p = ctx.saved_tensors
        cotangent, by_t = plain(cotangent), None
        with refusals(ctx.julia):
            by_u, by_p = ctx.julia.apply(ctx.back, cotangent)
            if ctx.needs_input_grad[3]:
                time, state = float(ctx.time), plain(u)
                slope = ctx.julia.call("time_derivative", ctx.model, time, state, plain(p))
                by_t = (cotangent * slope).sum().to(ctx.time.dtype).reshape(ctx.time.shape)
        return None, None, None, by_t, by_u, by_p
