"""The automatic first step (Hairer, Norsett, Wanner I, II.4) as OrdinaryDiffEqCore takes it (initdt.jl)."""

import numpy as np
import torch

from pylocalreg.engines.torch_engine.controller import Scalar
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.errors import NonFiniteError


def _rms(x: torch.Tensor) -> torch.Tensor:
    rms: torch.Tensor = torch.linalg.vector_norm(x) / x.numel() ** 0.5
    return rms


def initial_step(
    f: RightHandSide,
    t: Scalar,
    t_end: Scalar,
    u: torch.Tensor,
    order: int,
    abstol: float,
    reltol: float,
) -> Scalar:
    """Signed step size at (t, u); two calls of ``f``, two synchronizations.

    Raises:
        NonFiniteError: the state or the dynamics at ``t`` is NaN or infinite.
    """
    T = type(t)
    direction: Scalar = T(1) if t_end > t else T(-1)
    span = abs(t_end - t)
    smallest = np.nextafter(np.spacing(abs(t)), T(1))
    small = max(smallest, T(1e-6))

    scale = u.abs().mul_(reltol).add_(abstol)
    f0 = f.owned(float(t), u)
    d0, d1 = (T(x) for x in torch.stack((_rms(u / scale), _rms(f0 / scale))).tolist())
    if not (np.isfinite(d0) and np.isfinite(d1)):
        raise_if_not_finite(u, f"the state at t = {float(t):.6g}", "check the initial state and its scale")
        raise_if_not_finite(f0, f"the dynamics at t = {float(t):.6g}", "check the parameters and the input")
    dt0 = small if d0 < T(1e-5) or d1 < T(1e-5) else d0 / d1 / T(100)
    dt0 = min(dt0, span)

    f1 = f.owned(float(t + direction * dt0), torch.add(u, f0, alpha=float(direction * dt0)))
    change = T(float(_rms(f1.sub(f0).div_(scale))))
    if change == 0:
        return T(direction * max(smallest, min(T(100) * dt0, span)))
    d2 = change / dt0
    largest = max(d1, d2)
    if not np.isfinite(largest):
        raise_if_not_finite(
            f1, f"the dynamics at t = {float(t + direction * dt0):.6g}", "rescale the problem"
        )
    if largest <= T(1e-15):
        dt1 = max(small, dt0 * T(1e-3))
    else:
        dt1 = T(10) ** (-(T(2) + np.log10(largest)) / T(order))
    return T(direction * max(smallest, min(T(100) * dt0, dt1, span)))


def raise_if_not_finite(x: torch.Tensor, name: str, advice: str) -> None:
    """Raise `NonFiniteError` that counts the bad elements of ``x``, if there are any."""
    finite = torch.isfinite(x)
    if not finite.all():
        bad = int((~finite).sum())
        raise NonFiniteError(f"{name} has {bad} NaN or infinite of {x.numel()} elements: {advice}")
