"""The automatic first step (Hairer, Norsett, Wanner I, II.4) as OrdinaryDiffEqCore takes it (initdt.jl)."""

import math

import numpy as np
import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.controller import Scalar
from pylocalreg.engines.torch_engine.error_norm import rms
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide, raise_if_not_finite


def _larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The larger of |a + b| and |a - b|, which is |a| + |b|."""
    return a.abs().add_(b.abs())


def initial_step(f: RightHandSide, problem: Problem, order: float, t: Scalar, u: torch.Tensor) -> Scalar:
    """Signed step size at (t, u) towards the end of the span; two calls of ``f``, and of the diffusion, and
    two synchronizations.

    The diffusion counts as three standard deviations of noise to either side.

    Raises:
        NonFiniteError: the state or the dynamics at ``t`` is NaN or infinite.
    """
    T = type(t)
    t_end = T(problem.tspan[1])
    direction: Scalar = T(1) if t_end > t else T(-1)
    dtmax, dtmin = problem.steps.dtmax, problem.steps.dtmin
    largest_dt = abs(t_end - t) if dtmax is None else T(dtmax)
    smallest_dt = np.nextafter(max(T(dtmin or 0), np.spacing(abs(t))), T(np.inf))
    small = max(smallest_dt, T(1e-6))

    scale = u.abs().mul_(problem.reltol).add_(problem.abstol)
    f0 = f.owned(float(t), u)
    g = f.diffusion
    order = order if g is None else order + 0.5
    g0 = None if g is None else g(float(t), u) * 3
    slope = f0 if g0 is None else _larger(f0, g0)
    d0, d1 = (T(x) for x in torch.stack((rms(u / scale), rms(slope / scale))).tolist())
    if not (math.isfinite(d0) and math.isfinite(d1)):
        raise_if_not_finite(u, f"the state at t = {float(t):.6g}", "check the initial state and its scale")
        f.raise_if_not_finite(float(t), u, f"at t = {float(t):.6g}")
    dt0 = small if d0 < T(1e-5) or d1 < T(1e-5) else d0 / d1 / T(100)
    dt0 = min(dt0, largest_dt)
    if dt0 < 10 * np.finfo(T).eps:
        return T(direction * small)

    t1, u1 = float(t + direction * dt0), torch.add(u, f0, alpha=float(direction * dt0))
    f1 = f.owned(t1, u1)
    change = f1.sub(f0)
    d2 = T(float(rms(change / scale))) / dt0
    if d2 == 0:
        return T(direction * max(smallest_dt, min(T(100) * dt0, largest_dt)))
    if g is not None and g0 is not None:
        d2 = T(float(rms(_larger(change, _larger(g0, g(t1, u1) * 3)) / scale))) / dt0
    largest = max(d1, d2)
    if not math.isfinite(largest):
        f.raise_if_not_finite(t1, u1, f"at t = {t1:.6g}")
    if largest <= T(1e-15):
        dt1 = max(T(1e-6), dt0 * T(1e-3))
    else:
        dt1 = T(10) ** (-(T(2) + np.log10(largest)) / T(order))
    return T(direction * max(smallest_dt, min(T(100) * dt0, dt1, largest_dt)))
