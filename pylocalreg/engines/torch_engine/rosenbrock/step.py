"""One Rosenbrock step built with autograd."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Gradient, Problem
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.explicit_rk.step import differentiable_sum
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau


def differentiable_step(
    f: RightHandSide,
    tableau: RosenbrockTableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    problem: Problem,
    gradient: Gradient = "exact",
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The stages and the new state, built with autograd when gradients are enabled, through the Jacobian too.

    ``"frozen"`` holds the first stage constant.
    """
    k = f(t, u)  # before the Jacobian, which is to know whether f draws random numbers
    linearization = f.linearize(t, u, problem.jacobian)
    h = tableau.gamma * dt
    factors = linearization.factorize(h)
    stages: list[torch.Tensor] = []
    for i in range(tableau.stages):
        if i > 0:
            k = f(t + tableau.c[i] * dt, differentiable_sum(u, tableau.a[i - 1], stages, 1.0))
        rhs = h * (k + tableau.d[i] * dt * linearization.dT)
        if i > 0:
            rhs = differentiable_sum(rhs, tableau.gamma_C[i - 1], stages, 1.0)
        z = factors.solve(rhs)
        stages.append(z.detach() if i == 0 and gradient == "frozen" else z)
    return stages, differentiable_sum(u, tableau.b, stages, 1.0)


def estimate_of_stages(
    tableau: RosenbrockTableau,
    u: torch.Tensor,
    u_new: torch.Tensor,
    stages: Sequence[torch.Tensor],
    dt: float,
    problem: Problem,
) -> torch.Tensor:
    """R of a step from ``u`` to ``u_new``, built with autograd when gradients are enabled."""
    error = differentiable_sum(None, tableau.btilde, stages, 1.0)
    return scaled_rms(error, u, u_new, problem.abstol, problem.reltol) * abs(dt)
