"""EEst = rms(e / (abstol + max(|u|, |u_new|) reltol)) over every element, and other measures of a step."""

import math

import torch


class ErrorNorm:
    """EEst along a solve, in preallocated buffers."""

    def __init__(self, u: torch.Tensor, abstol: float, reltol: float) -> None:
        self.abstol_tensor, self.reltol = u.new_full((), abstol), reltol
        self.scale_by = math.sqrt(u.numel())
        self.abs_u = u.abs()
        self.abs_new = torch.empty_like(u)
        self.scale = torch.empty_like(u)

    def __call__(self, error: torch.Tensor, u_new: torch.Tensor) -> float:
        """EEst of a step to ``u_new``; overwrites ``error``. The one synchronization of a step."""
        torch.abs(u_new, out=self.abs_new)
        torch.maximum(self.abs_u, self.abs_new, out=self.scale)
        torch.add(self.abstol_tensor, self.scale, alpha=self.reltol, out=self.scale)
        rms: torch.Tensor = torch.linalg.vector_norm(error.div_(self.scale))
        return float(rms) / self.scale_by

    def advance(self) -> None:
        """The step was accepted: u_new is the next step's u."""
        self.abs_u, self.abs_new = self.abs_new, self.abs_u


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square over every element, a scalar tensor. At 0 its derivatives of every order are 0."""
    if x.requires_grad:
        # PyTorch's norm has a first derivative at 0 that is 0, but a second one that is 0 / 0
        zero = torch.linalg.vector_norm(x.detach()) == 0
        norm = torch.linalg.vector_norm(x.masked_fill(zero, 1)).masked_fill(zero, 0)
    else:
        norm = torch.linalg.vector_norm(x)
    root: torch.Tensor = norm / x.numel() ** 0.5
    return root


def mean_square(x: torch.Tensor) -> torch.Tensor:
    """The square of `rms`, smooth at 0 too."""
    return x.square().mean()


def stiffness(of_f: torch.Tensor, of_u: torch.Tensor) -> torch.Tensor:
    """S = rms(of_f) / rms(of_u), a scalar tensor; 0, and its derivatives too, where either is 0."""
    below = rms(of_u)
    zero = below.detach() == 0
    return (rms(of_f) / below.masked_fill(zero, 1)).masked_fill(zero, 0)


def scaled_rms(
    error: torch.Tensor,
    u: torch.Tensor,
    u_new: torch.Tensor,
    abstol: float | torch.Tensor,
    reltol: float | torch.Tensor,
) -> torch.Tensor:
    """EEst as a differentiable scalar tensor."""
    return rms(error / (abstol + torch.maximum(u.abs(), u_new.abs()) * reltol))


def scaled_rms_reversed(
    error: torch.Tensor,
    u: torch.Tensor,
    u_new: torch.Tensor,
    abstol: float,
    reltol: float,
    cotangent: torch.Tensor | float,
    to_u: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`scaled_rms`, and from its cotangent those of ``error``, ``u_new`` and, if it is wanted, ``u``: as by
    autograd.
    """
    of_u, of_new = u.abs(), u_new.abs()
    scale = torch.maximum(of_u, of_new).mul_(reltol).add_(abstol)
    scaled = error / scale
    norm: torch.Tensor = torch.linalg.vector_norm(scaled)
    root = error.numel() ** 0.5
    factor = cotangent / (root * norm.masked_fill(norm == 0, math.inf))
    by_error = scaled.div(scale).mul_(factor)
    by_larger = scaled.mul_(by_error).mul_(-reltol)
    share = torch.heaviside(of_new.sub_(of_u), error.new_full((), 0.5))  # equal ones have a half each
    by_new = torch.sgn(u_new).mul_(by_larger).mul_(share)
    by_u = torch.sgn(u).mul_(by_larger).mul_(1 - share) if to_u else None
    return norm / root, by_error, by_new, by_u
