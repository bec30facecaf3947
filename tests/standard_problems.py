"""The standard problems of the field, each with parameters that want a gradient.

Lorenz (1963); Pleiades, the Brusselator in one dimension and Van der Pol's oscillator from E. Hairer, S. P.
Norsett, G. Wanner, Solving Ordinary Differential Equations I and II; HIRES, Robertson, OREGO, the stiff
Van der Pol and the pollution problem from the test set of F. Mazzia, J. R. Cash, K. Soetaert (2012).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

F64 = torch.float64


@dataclass(frozen=True)
class StandardProblem:
    """du/dt = f(u, p) of float64 tensors, from u(0) to the end."""

    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    p: Sequence[float]
    u0: Sequence[float]
    end: float
    stiff: bool

    def module(self) -> "Dynamics":
        return Dynamics(self)

    def start(self) -> torch.Tensor:
        return torch.tensor(self.u0, dtype=F64)


class Dynamics(torch.nn.Module):
    def __init__(self, problem: StandardProblem) -> None:
        super().__init__()
        self.problem = problem
        self.p = torch.nn.Parameter(torch.tensor(problem.p, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.problem.f(u, self.p)


def _lorenz(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    x, y, z = u.unbind()
    sigma, rho, beta = p.unbind()
    return torch.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z])


def _pleiades(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Seven stars in a plane: places, then velocities; ``p`` are their masses."""
    place, velocity = u.view(2, 2, 7).unbind()
    towards = place[:, None, :] - place[:, :, None]
    cubed = (towards.square().sum(0) + torch.eye(7, dtype=u.dtype)) ** 1.5
    pull = ((towards / cubed) * p).sum(-1)
    return torch.stack([velocity, pull]).reshape(-1)


def _brusselator(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """On 16 points of a line, 1 and 3 at its ends: a, b and the diffusion."""
    x, y = u.view(2, -1).unbind()
    a, b, alpha = p.unbind()

    def diffused(z: torch.Tensor, end: float) -> torch.Tensor:
        ends = z.new_full((1,), end)
        padded = torch.cat([ends, z, ends])
        return alpha * (len(z) + 1) ** 2 * (padded[:-2] - 2 * z + padded[2:])

    reaction = x * x * y
    return torch.cat([a + reaction - (b + 1) * x + diffused(x, 1.0), b * x - reaction + diffused(y, 3.0)])


def _van_der_pol(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    y, dy = u.unbind()
    return torch.stack([dy, p[0] * (1 - y * y) * dy - p[1] * y])


def _robertson(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    a, b, c = u.unbind()
    slow, fast, quick = p[0] * a, p[1] * b * c, p[2] * b * b
    return torch.stack([fast - slow, slow - fast - quick, quick])


def _orego(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Field, Koros and Noyes' oscillator."""
    a, b, c = u.unbind()
    s, q, w = p.unbind()
    return torch.stack([s * (b + a * (1 - q * a - b)), (c - (1 + a) * b) / s, w * (a - c)])


def _hires(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    a, b, c, d, e, f, g, h = u.unbind()
    k = p
    return torch.stack(
        [
            -k[0] * a + 0.43 * b + 8.32 * c + 0.0007,
            k[0] * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + k[0] * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -k[1] * f * h + 0.69 * d + k[0] * e - 0.43 * f + 0.69 * g,
            k[1] * f * h - k[2] * g,
            -k[1] * f * h + k[2] * g,
        ]
    )


def _pollution(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """25 reactions of 20 species; ``p`` are the logarithms of their rates."""
    y = u
    with_what = (
        (0,), (1, 3), (4, 1), (6,), (6,), (6, 5), (8,), (8, 5), (10, 1), (10, 0), (12,), (9, 1), (13,),
        (0, 5), (2,), (3,), (3,), (15,), (15,), (16, 5), (18,), (18,), (0, 3), (18, 0), (19,),
    )  # fmt: skip
    rates = p.exp()
    r = [rates[i] * torch.stack([y[j] for j in who]).prod() for i, who in enumerate(with_what)]
    return torch.stack(
        [
            -r[0] - r[9] - r[13] - r[22] - r[23] + r[1] + r[2] + r[8] + r[10] + r[11] + r[21] + r[24],
            -r[1] - r[2] - r[8] - r[11] + r[0] + r[20],
            -r[14] + r[0] + r[16] + r[18] + r[21],
            -r[1] - r[15] - r[16] - r[22] + r[14],
            -r[2] + 2 * r[3] + r[5] + r[6] + r[12] + r[19],
            -r[5] - r[7] - r[13] - r[19] + r[2] + 2 * r[17],
            -r[3] - r[4] - r[5] + r[12],
            r[3] + r[4] + r[5] + r[6],
            -r[6] - r[7],
            -r[11] + r[6] + r[8],
            -r[8] - r[9] + r[7] + r[10],
            r[8],
            -r[10] + r[9],
            -r[12] + r[11],
            r[13],
            -r[17] - r[18] + r[15],
            -r[19],
            r[19],
            -r[20] - r[21] - r[23] + r[22] + r[24],
            -r[24] + r[23],
        ]
    )


_RATES = (
    *(0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9.0e3, 0.022, 1.2e4, 1.88, 1.63e4),
    *(4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1240.0, 2.1, 5.78, 0.0474, 1780.0, 3.12),
)
_GRID = torch.arange(1, 17, dtype=F64) / 17

PROBLEMS: dict[str, StandardProblem] = {
    "Lorenz": StandardProblem(_lorenz, (10.0, 28.0, 8 / 3), (1.0, 0.5, 0.2), 1.0, False),
    "Pleiades": StandardProblem(
        _pleiades,
        tuple(float(i) for i in range(1, 8)),
        (
            *(3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0),
            *(3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0),
            *(0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5),
            *(0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0),
        ),
        1.0,
        False,
    ),
    "Van der Pol": StandardProblem(_van_der_pol, (2.0, 1.0), (2.0, 0.0), 4.0, False),
    "Brusselator": StandardProblem(
        _brusselator,
        (1.0, 3.0, 0.02),
        (*(1 + torch.sin(2 * torch.pi * _GRID)).tolist(), *(3.0,) * 16),
        1.0,
        True,
    ),
    "stiff Van der Pol": StandardProblem(_van_der_pol, (100.0, 1.0), (2.0, 0.0), 20.0, True),
    "Robertson": StandardProblem(_robertson, (0.04, 1e4, 3e7), (1.0, 0.0, 0.0), 40.0, True),
    "OREGO": StandardProblem(_orego, (77.27, 8.375e-6, 0.161), (1.0, 2.0, 3.0), 20.0, True),
    "HIRES": StandardProblem(
        _hires, (1.71, 280.0, 1.81), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 50.0, True
    ),
    "pollution": StandardProblem(
        _pollution,
        torch.tensor(_RATES, dtype=F64).log().tolist(),
        (0, 0.2, 0, 0.04, 0, 0, 0.1, 0.3, 0.01, 0, 0, 0, 0, 0, 0, 0, 0.007, 0, 0, 0),
        10.0,
        True,
    ),
}
