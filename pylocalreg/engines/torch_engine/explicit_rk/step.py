"""One explicit Runge-Kutta step: sums of stages in place, and the same step built with autograd."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity
from pylocalreg.engines.torch_engine.error_norm import scaled_rms, stiffness
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


def combine(
    u: torch.Tensor | None,
    weights: Sequence[float],
    ks: Sequence[torch.Tensor],
    dt: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """u + dt * sum_i weights_i k_i, one pass over memory a term; with ``u`` None the sum alone.

    There may be more stages than weights.
    """
    terms = zip(weights, ks, strict=False)
    weight, k = next(terms)
    out = torch.mul(k, dt * weight, out=out) if u is None else torch.add(u, k, alpha=dt * weight, out=out)
    for weight, k in terms:
        if weight:
            out.add_(k, alpha=dt * weight)
    return out


def add_interpolant_stages(
    f: RightHandSide, tableau: Tableau, t: float, u: torch.Tensor, dt: float, ks: list[torch.Tensor]
) -> int:
    """Append the stages that only the interpolant needs, unless they are there; gives their number."""
    if len(ks) == len(tableau.interpolant):
        return 0
    for c, a in tableau.interpolant_rows:
        ks.append(f.owned(t + c * dt, combine(u, a, ks, dt)))
    return len(tableau.interpolant_rows)


def differentiable_sum(
    u: torch.Tensor | None, weights: Sequence[float], ks: Sequence[torch.Tensor], dt: float
) -> torch.Tensor:
    """As `combine`, built with autograd when gradients are enabled."""
    total = ks[0] * (dt * weights[0]) if u is None else torch.add(u, ks[0], alpha=dt * weights[0])
    for weight, k in zip(weights[1:], ks[1:], strict=False):
        if weight:
            total = torch.add(total, k, alpha=dt * weight)
    return total


def differentiable_step(
    f: RightHandSide, tableau: Tableau, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The step's own stages and the new state, built with autograd when gradients are enabled; ``k1`` is f at
    (t, u).
    """
    ks = [k1]
    for c, a in tableau.inner_rows:
        ks.append(f(t + c * dt, differentiable_sum(u, a, ks, dt)))
    u_new = differentiable_sum(u, tableau.b, ks, dt)
    if tableau.fsal:
        ks.append(f(t + dt, u_new))
    return ks, u_new


def estimate_of_stages(
    tableau: Tableau,
    quantity: Quantity,
    u: torch.Tensor,
    u_new: torch.Tensor,
    ks: Sequence[torch.Tensor],
    dt: float,
    problem: Problem,
) -> torch.Tensor:
    """R or S of a step from ``u`` to ``u_new``, built with autograd when gradients are enabled."""
    if quantity == "stiffness":
        assert tableau.stiffness is not None
        last = tableau.stages - 1  # those of the interpolant may follow
        return stiffness(ks[last] - ks[last - 1], differentiable_sum(None, tableau.stiffness, ks, dt))
    error = differentiable_sum(None, tableau.btilde, ks, dt)
    return scaled_rms(error, u, u_new, problem.abstol, problem.reltol) * abs(dt)


def estimate_of_step(
    f: RightHandSide,
    tableau: Tableau,
    quantity: Quantity,
    t: float,
    u: torch.Tensor,
    dt: float,
    problem: Problem,
    gradient: Gradient,
) -> torch.Tensor:
    """R or S of one step from (t, u), built with autograd when gradients are enabled."""
    k1 = f(t, u)
    ks, u_new = differentiable_step(f, tableau, t, u, dt, k1.detach() if gradient == "frozen" else k1)
    return estimate_of_stages(tableau, quantity, u, u_new, ks, dt, problem)
