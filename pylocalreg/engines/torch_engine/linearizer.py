"""df/du and df/dt along one solve, by the cheaper of two ways that give the same."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from pylocalreg.engines.base import Dynamics, Jacobian
from pylocalreg.engines.torch_engine.linearization import DenseLinearization, directional, linearize, units
from pylocalreg.errors import JacobianError
from pylocalreg.observed.leaving import DETACHING, Leaving
from pylocalreg.observed.nearby import contradicted, direction
from pylocalreg.observed.reached import transforming


class Linearizer:
    """Reverse mode gives every row of the Jacobian in one batched pass over one recorded call, and costs a
    tenth of forward mode where the state is small. But it does not see what has no graph, a part computed
    within ``torch.no_grad`` say, and the order of a Rosenbrock step needs the true Jacobian. So at the first
    place it is held against one forward-mode derivative, and where the two differ forward mode goes on. What
    the dynamics detach neither sees: where they do, both are held against a difference of values.
    """

    def __init__(self, f: Dynamics, jacobian: Jacobian) -> None:
        self.f, self.jacobian = f, jacobian
        self.agrees: bool | None = None
        self.seeds: torch.Tensor | None = None

    def __call__(self, t: float, u: torch.Tensor) -> DenseLinearization:
        """The derivatives at (t, u); built with autograd, and forward, when gradients are enabled.

        Raises:
            JacobianError: ``f`` can not be differentiated so, or detaches what depends on the state.
        """
        if torch.is_grad_enabled() or u.is_inference() or self.agrees is False or transforming():
            return linearize(self.f, t, u, self.jacobian)
        if self.agrees is None:
            found = self._seen(t, u)
            self.agrees = found is not None
            return linearize(self.f, t, u, self.jacobian) if found is None else found
        return self._by_rows(t, u)

    def _by_rows(
        self, t: float, u: torch.Tensor, watching: AbstractContextManager[Any] | None = None
    ) -> DenseLinearization:
        if self.seeds is None:
            self.seeds = units(u, self.jacobian)
        n = len(self.seeds)
        with torch.enable_grad():
            time, state = u.new_full((), t).requires_grad_(), u.detach().requires_grad_()
            with watching or nullcontext():
                k = self.f(time, state)
        by_u = by_t = None
        if k.requires_grad:
            by_u, by_t = torch.autograd.grad(
                k, (state, time), self.seeds, is_grads_batched=True, allow_unused=True
            )
        if by_u is None:
            by_u = u.new_zeros(n, *u.shape)
        if self.jacobian == "system":
            dT = torch.zeros_like(u) if by_t is None else by_t.view_as(u)
            return DenseLinearization(by_u.reshape(n, n), dT)
        # a row's derivative by t is summed over the samples
        dT = torch.zeros_like(u) if by_t is None else self._by_time(t, u)
        return DenseLinearization(by_u.reshape(n, -1, n).transpose(0, 1), dT)

    def _by_time(self, t: float, u: torch.Tensor) -> torch.Tensor:
        return directional(self.f, t, u, u.new_ones(1), u.new_zeros(1, *u.shape))[0]

    def _seen(self, t: float, u: torch.Tensor) -> DenseLinearization | None:
        """What rows give at (t, u), where forward mode says the same of a direction."""
        along = direction(u)
        right = directional(self.f, t, u, u.new_ones(1), along.unsqueeze(0))[0]
        watching = Leaving(DETACHING)
        try:
            found = self._by_rows(t, u, watching)
        except RuntimeError:  # a function that has a jvp, and no backward under vmap
            return None
        if watching.left:
            self._check_detached(t, u, along)
        columns = along.reshape(*found.J.shape[:-1], 1)
        apart = (found.J @ columns).view_as(u) + found.dT - right
        scale = (found.J.abs() @ columns.abs()).view_as(u) + found.dT.abs() + right.abs()
        rounding = 1e3 * torch.finfo(u.dtype).eps
        return found if bool((apart.abs() <= rounding * scale).all()) else None

    def _check_detached(self, t: float, u: torch.Tensor, along: torch.Tensor) -> None:
        """Raise where the derivative ``along`` a direction is not what values nearby say."""
        time = u.new_full((), t)
        seen = directional(self.f, t, u, u.new_zeros(1), along.unsqueeze(0))[0]
        apart = contradicted(seen, lambda h: self.f(time, u + h * along), u)
        if apart is not None:
            raise JacobianError(
                f"the dynamics detach what depends on the state: at t = {t:.6g} a derivative of theirs is "
                f"{float(seen.norm()):.3g}, and off by {apart:.3g}. A Rosenbrock method needs all of df/du "
                "and would lose its order: leave detach() and .data out, or take an explicit method"
            )
