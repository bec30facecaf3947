"""One variable-coefficient Adams step (Hairer, Norsett, Wanner I, III.5, formulas 5.7 to 5.10).

With the slopes f0 of this step and f1, f2 of the two before it, and step sizes likewise:

    phi2 = f0 - f1,  phi3 = phi2 - (dt1 / dt2) (f1 - f2)                   modified divided differences
    Adams-Bashforth: u_new = u + g1 f0 + g2 beta2 phi2 + g3 beta3 phi3,    error g3 beta3 phi3
    Adams-Moulton:   from the prediction u + g1 f0 + g2 beta2 phi2 with slope fp, the differences psi of fp
                     u_new = prediction + g3 psi3,                         error (g4 - g3) psi4
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pylocalreg.engines.torch_engine.adams.history import History

Slopes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""f0, f1, f2."""


@dataclass(frozen=True)
class Coefficients:
    """Of a step of size dt0 after steps of dt1 and dt2. As in the stack, g includes the step size."""

    ratio: float
    beta2: float
    beta3: float
    g1: float
    g2: float
    g3: float
    g4: float


def coefficients(dt: float, history: History) -> Coefficients:
    dt0, dt1, dt2 = dt, history[0].dt, history[1].dt
    two, three = dt0 / (dt0 + dt1), dt0 / (dt0 + dt1 + dt2)
    c31, c32 = 1 / 2 - two / 6, 1 / 6 - two / 12
    beta2 = dt0 / dt1
    return Coefficients(
        ratio=dt1 / dt2,
        beta2=beta2,
        beta3=beta2 * (dt0 + dt1) / (dt1 + dt2),
        g1=dt0,
        g2=dt0 / 2,
        g3=dt0 * c31,
        g4=dt0 * (c31 - three * c32),
    )


def take(
    corrects: bool,
    u: torch.Tensor,
    slopes: Slopes,
    c: Coefficients,
    slope_at_end: Callable[[torch.Tensor], torch.Tensor],
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The new state and its error; ``out`` is for the state, where no graph is wanted.

    ``slope_at_end`` gives f at the step's end and the predicted state, which Adams-Moulton ``corrects``.
    """
    return _moulton(u, slopes, c, slope_at_end, out) if corrects else _bashforth(u, slopes, c, out)


def _bashforth(
    u: torch.Tensor, slopes: Slopes, c: Coefficients, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    phi2, phi3 = _differences(slopes, c)
    error = phi3 * (c.g3 * c.beta3)
    u_new = torch.add(u, slopes[0], alpha=c.g1, out=out)
    u_new = torch.add(u_new, phi2, alpha=c.g2 * c.beta2, out=out)
    return torch.add(u_new, error, out=out), error


def _moulton(
    u: torch.Tensor,
    slopes: Slopes,
    c: Coefficients,
    slope_at_end: Callable[[torch.Tensor], torch.Tensor],
    out: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    phi2, phi3 = _differences(slopes, c)
    prediction = torch.add(u, slopes[0], alpha=c.g1, out=out)
    prediction = torch.add(prediction, phi2, alpha=c.g2 * c.beta2, out=out)
    psi2 = slope_at_end(prediction) - slopes[0]
    psi3 = torch.add(psi2, phi2, alpha=-c.beta2)
    psi4 = torch.add(psi3, phi3, alpha=-c.beta3)
    return torch.add(prediction, psi3, alpha=c.g3, out=out), psi4 * (c.g4 - c.g3)


def _differences(slopes: Slopes, c: Coefficients) -> tuple[torch.Tensor, torch.Tensor]:
    f0, f1, f2 = slopes
    phi2 = f0 - f1
    return phi2, torch.add(phi2, f1 - f2, alpha=-c.ratio)


def hermite_weights(theta: float) -> tuple[float, float, float]:
    """Weights of u_new - u, and of dt f at both ends, in the cubic Hermite interpolant u + ..."""
    bend = theta * (theta - 1)
    return theta + bend * (1 - 2 * theta), bend * (theta - 1), bend * theta


def hermite(
    u: torch.Tensor, u_new: torch.Tensor, k: torch.Tensor, k_new: torch.Tensor, dt: float, theta: float
) -> torch.Tensor:
    """The cubic Hermite interpolant of a step from ``u``, slope ``k``, to ``u_new``, slope ``k_new``."""
    change, start, end = hermite_weights(theta)
    inside = torch.lerp(u, u_new, change)
    return inside.add_(k, alpha=dt * start).add_(k_new, alpha=dt * end)
