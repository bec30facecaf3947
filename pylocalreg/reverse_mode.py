"""The derivative along a direction by reverse mode alone, of one recorded call."""

import torch

from pylocalreg.forward_mode import Function, Pair


def derivative_along(f: Function, at: Pair, along: Pair) -> torch.Tensor:
    """The derivative of ``f(t, u)`` at (t, u) along a direction, of a call without function transforms; may
    be nested. See `forward_mode.plain_derivative_along`, which may not.

    v^T df is linear in v, and its derivative by v along a direction is df along it. Built with autograd when
    gradients are enabled.

    Raises:
        RuntimeError: ``f`` can not be differentiated twice.
    """
    further = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        own = [x.view_as(x) if further and x.requires_grad else _leaf(x) for x in at]
        k = f(own[0], own[1])
        if not k.requires_grad:
            return torch.zeros_like(k)
        v = torch.zeros_like(k).requires_grad_()
        by_own = torch.autograd.grad(k, own, v, create_graph=True, allow_unused=True)
        pairs = [(g, d) for g, d in zip(by_own, along, strict=True) if g is not None and g.requires_grad]
        if not pairs:
            return torch.zeros_like(k)
        linear, directions = zip(*pairs, strict=True)
        (df,) = torch.autograd.grad(linear, v, directions, create_graph=further, allow_unused=True)
    return torch.zeros_like(k) if df is None else df


def _leaf(x: torch.Tensor) -> torch.Tensor:
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()
