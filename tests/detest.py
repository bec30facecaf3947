"""The DETEST problems: the 25 non-stiff initial value problems of T. E. Hull, W. H. Enright, B. M. Fellen and
A. E. Sedgwick, Comparing numerical methods for ordinary differential equations, SIAM J. Numer. Anal. 9 (1972)
603-637, each over [0, 20]. A: single equations, B: small systems, C: moderate systems, D: orbits, E: of
higher order.
"""

import math

import torch

from tests.conftest import Dynamics

TSPAN = (0.0, 20.0)


def _state(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _predator_prey(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    prey, predator = u.unbind()
    met = prey * predator
    return torch.stack([2 * (prey - met), met - predator])


def _nonlinear_reaction(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    a, b, _ = u.unbind()
    return torch.stack([-a, a - b * b, b * b])


def _torus(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    x, y, z = u.unbind()
    r = torch.hypot(x, y)
    return torch.stack([-y - x * z / r, x - y * z / r, x / r])


def _rigid_body(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    x, y, z = u.unbind()
    return torch.stack([y * z, -x * z, -0.51 * x * y])


def _linear(matrix: torch.Tensor) -> Dynamics:
    return lambda t, u: matrix @ u


def _decay_chain(rates: torch.Tensor) -> torch.Tensor:
    """Each of the species decays into the next; the last is stable."""
    return torch.diag(rates, -1) - torch.diag(torch.cat([rates, rates.new_zeros(1)]))


def _laplacian(n: int) -> torch.Tensor:
    ones = torch.ones(n - 1, dtype=torch.float64)
    return torch.diag(ones, -1) - 2 * torch.eye(n, dtype=torch.float64) + torch.diag(ones, 1)


GRAVITY, SUN = 2.95912208286, 1.00000597682
PLANETS = _state(
    0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 2.77777777778e-6
)
"""Masses of Jupiter, Saturn, Uranus, Neptune and Pluto."""
PLACES = (
    (3.42947415189, 6.64145542550, 11.2630437207, -30.1552268759, -21.1238353380),
    (3.35386959711, 5.97156957878, 14.6952576794, 1.65699966404, 28.4465098142),
    (1.35494901715, 2.18231499728, 6.27960525067, 1.43785752721, 15.3882659679),
)
VELOCITIES = (
    (-0.557160570446, -0.415570776342, -0.325325669158, -0.0240476254170, -0.176860753121),
    (0.505696783289, 0.365682722812, 0.189706021964, -0.287659532608, -0.216393453025),
    (0.230578543901, 0.169143213293, 0.0877265322780, -0.117219543175, -0.0148647893090),
)


def _five_bodies(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Places and velocities, (2, 3, 5), as seen from the sun, which the planets pull too."""
    place, velocity = u.unbind()
    towards = place[:, None, :] - place[:, :, None]  # (3, 5, 5): from the one to the other
    cubed = (towards.square().sum(0) + torch.eye(5, dtype=u.dtype)) ** 1.5  # of itself: 0 / 1
    to_sun = place / place.square().sum(0) ** 1.5
    pull = towards / cubed @ PLANETS - (to_sun @ PLANETS)[:, None]
    return torch.stack([velocity, GRAVITY * (pull - SUN * to_sun)])


def _orbit(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    place, velocity = u.view(2, 2).unbind()
    return torch.cat([velocity, -place / place.square().sum() ** 1.5])


def _orbit_start(eccentricity: float) -> torch.Tensor:
    return _state(1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity)))


def _bessel(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    y, dy = u.unbind()
    return torch.stack([dy, -dy / (t + 1) - y * (1 - 0.25 / (t + 1) ** 2)])


def _van_der_pol(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    y, dy = u.unbind()
    return torch.stack([dy, (1 - y * y) * dy - y])


def _duffing(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    y, dy = u.unbind()
    return torch.stack([dy, y**3 / 6 - y + 2 * torch.sin(2.78535 * t)])


def _falling_body(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    _, dy = u.unbind()
    return torch.stack([dy, 0.032 - 0.4 * dy * dy])


def _pursuit(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    _, dy = u.unbind()
    return torch.stack([dy, torch.sqrt(1 + dy * dy) / (25 - t)])


_EXCHANGE = torch.tensor([[-1, 1, 0], [1, -2, 1], [0, 1, -1]], dtype=torch.float64)
_UNIT = torch.eye(51, dtype=torch.float64)[0]

PROBLEMS: dict[str, tuple[Dynamics, torch.Tensor]] = {
    "A1": (lambda t, u: -u, _state(1.0)),
    "A2": (lambda t, u: -0.5 * u**3, _state(1.0)),
    "A3": (lambda t, u: u * torch.cos(t), _state(1.0)),
    "A4": (lambda t, u: 0.25 * u * (1 - 0.05 * u), _state(1.0)),
    "A5": (lambda t, u: (u - t) / (u + t), _state(4.0)),
    "B1": (_predator_prey, _state(1.0, 3.0)),
    "B2": (_linear(_EXCHANGE), _state(2.0, 0.0, 1.0)),
    "B3": (_nonlinear_reaction, _state(1.0, 0.0, 0.0)),
    "B4": (_torus, _state(3.0, 0.0, 0.0)),
    "B5": (_rigid_body, _state(0.0, 1.0, 1.0)),
    "C1": (_linear(_decay_chain(torch.ones(9, dtype=torch.float64))), _UNIT[:10]),
    "C2": (_linear(_decay_chain(torch.arange(1, 10, dtype=torch.float64))), _UNIT[:10]),
    "C3": (_linear(_laplacian(10)), _UNIT[:10]),
    "C4": (_linear(_laplacian(51)), _UNIT),
    "C5": (_five_bodies, torch.tensor([PLACES, VELOCITIES], dtype=torch.float64)),
    **{f"D{i}": (_orbit, _orbit_start(e)) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)},
    "E1": (_bessel, _state(0.6713967071418030, 0.09540051444747446)),
    "E2": (_van_der_pol, _state(2.0, 0.0)),
    "E3": (_duffing, _state(0.0, 0.0)),
    "E4": (_falling_body, _state(30.0, 0.0)),
    "E5": (_pursuit, _state(0.0, 0.0)),
}
"""By class and number: f(t, u) and u(0)."""
