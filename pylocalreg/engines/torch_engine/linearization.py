"""df/du and df/dt of the dynamics by forward-mode differentiation, and the linear systems made of them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch

from pylocalreg.engines.base import Dynamics, Jacobian
from pylocalreg.engines.torch_engine.one_sided import whole
from pylocalreg.errors import JacobianError
from pylocalreg.forward_mode import derivative_along, plain_derivative_along
from pylocalreg.observed import draws_numbers


class Factors(Protocol):
    """A factorized I - h df/du."""

    @property
    def singular(self) -> bool:
        """Whether there is no solution; synchronizes."""

    def solve(self, b: torch.Tensor) -> torch.Tensor:
        """x of (I - h df/du) x = b, both of the state's shape or flat."""


class Linearization(Protocol):
    """The derivatives of the dynamics at one (t, u)."""

    dT: torch.Tensor
    """df/dt, of the state's shape."""

    def factorize(self, h: float) -> Factors:
        """I - h df/du."""


class DenseLinearization:
    """df/du as a matrix, or as one for each sample: shape (n, n) or (batch, n, n)."""

    def __init__(self, J: torch.Tensor, dT: torch.Tensor) -> None:
        self.J, self.dT = J, dT

    def factorize(self, h: float) -> "DenseFactors":
        W = self.J * -h
        W.diagonal(dim1=-2, dim2=-1).add_(1)
        return DenseFactors(W)

    def negative_transpose(self, dT: torch.Tensor) -> "DenseLinearization":
        """That of dynamics whose Jacobian is -(df/du)^T."""
        return DenseLinearization(self.J.mT.neg(), dT)


class DenseFactors:
    """An LU factorization, batched where there is a matrix for each sample."""

    def __init__(self, W: torch.Tensor) -> None:
        self.LU, self.pivots, self.info = torch.linalg.lu_factor_ex(W)

    @property
    def singular(self) -> bool:
        return bool(self.info.any())

    def solve(self, b: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        column = b.reshape(*self.LU.shape[:-1], 1)
        x: torch.Tensor = torch.linalg.lu_solve(self.LU, self.pivots, column, adjoint=transpose)
        return x.view_as(b)


def linearize(f: Dynamics, t: float, u: torch.Tensor, jacobian: Jacobian) -> DenseLinearization:
    """The derivatives at (t, u), built with autograd when gradients are enabled; one vectorized call of f.

    Raises:
        JacobianError: ``f`` can not be differentiated so.
    """
    n = _unknowns(u, jacobian)
    along = directional(f, t, u, *directions(u, jacobian))
    columns = along[:-1]
    J = columns.reshape(n, n).T if jacobian == "system" else columns.reshape(n, -1, n).permute(1, 2, 0)
    return DenseLinearization(J, along[-1])


def units(u: torch.Tensor, jacobian: Jacobian) -> torch.Tensor:
    """The unit directions, of shape (n, *state)."""
    n = _unknowns(u, jacobian)
    unit = torch.eye(n, dtype=u.dtype, device=u.device)
    if jacobian == "system":
        return unit.view(n, *u.shape)
    # samples do not depend on each other: one direction serves the same feature of all
    return unit.unsqueeze(1).expand(n, len(u), n).reshape(n, *u.shape)


def directions(u: torch.Tensor, jacobian: Jacobian) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of `directional` that give df/du, and behind it df/dt."""
    by_u = units(u, jacobian)
    by_t = torch.cat([u.new_zeros(len(by_u)), u.new_ones(1)])
    return by_t, torch.cat([by_u, u.new_zeros(1, *u.shape)])


def counted_calls(u: torch.Tensor, jacobian: Jacobian) -> int:
    """As `calls_of_linearization`."""
    return calls_of_linearization(_unknowns(u, jacobian))


def calls_of_linearization(unknowns: int) -> int:
    """What the stack's nf counts for df/du and df/dt: a call for each chunk of at most 12 directions
    (ForwardDiff.jl), and one.
    """
    return math.ceil(unknowns / 12) + 1


def _unknowns(u: torch.Tensor, jacobian: Jacobian) -> int:
    return u.numel() if jacobian == "system" else u.numel() // len(u)


def directional(
    f: Dynamics, t: float, u: torch.Tensor, by_t: torch.Tensor, by_u: torch.Tensor
) -> torch.Tensor:
    """by_t df/dt + df/du by_u for each of m directions, shapes (m,) and (m, *state), in one call of f; of
    dynamics that draw random numbers in m calls, each of which draws what every call of them does.
    """
    at = u.new_full((), t), u
    drawing = draws_numbers(whole(f))
    derivatives: torch.Tensor
    try:
        if drawing:
            each = zip(by_t, by_u, strict=True)
            derivatives = torch.stack([plain_derivative_along(f, at, along) for along in each])
        else:
            derivatives = torch.vmap(partial(derivative_along, f, at))((by_t, by_u))
    except (RuntimeError, NotImplementedError) as error:
        how = "forward-mode automatic differentiation" if drawing else "torch.func"
        raise JacobianError(
            f"the dynamics can not be differentiated by {how} at t = {t:.6g}, which the Jacobian of a stiff "
            f"solver needs ({error}): write them without in-place updates, calls of torch.autograd and "
            "custom autograd functions that have no jvp, or take an explicit solver"
        ) from error
    return derivatives


def pull_back_directional(
    f: Dynamics,
    params: Sequence[torch.Tensor],
    t: float,
    u: torch.Tensor,
    by_t: torch.Tensor,
    by_u: torch.Tensor,
    cotangents: torch.Tensor,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """The gradients of <cotangents, directional(...)> by u and by each parameter, the directions constant.

    None where nothing depends on them.

    Raises:
        JacobianError: ``f`` has no second derivative.
    """
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        along = directional(f, t, u, by_t, by_u)
    if not along.requires_grad:
        return None, [None] * len(params)
    try:
        grads: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
            along, (u, *params), cotangents, allow_unused=True
        )
    except (RuntimeError, NotImplementedError) as error:
        raise JacobianError(
            f"the Jacobian of the dynamics can not be differentiated at t = {t:.6g}, which the gradient of a "
            f"stiff solver needs ({error}): the dynamics need a second derivative, or an explicit solver"
        ) from error
    return grads[0], list(grads[1:])
