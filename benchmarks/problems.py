"""The problems of `benchmarks.work_precision`, written once for torch, numpy and jax.

Arenstorf's orbit, the Pleiades and the Brusselator from E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary
Differential Equations I; D5 of T. E. Hull et al., Comparing numerical methods for ordinary differential
equations (1972), the orbit of eccentricity 0.9; HIRES and Robertson's reaction from the test set of
F. Mazzia, J. R. Cash, K. Soetaert (2012).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TestProblem:
    """du/dt of a state of shape ``(n,)``, which does not depend on t.

    Attributes:
        field: makes du/dt from the namespace of arrays, torch, numpy or jax.numpy.
        julia: the name of the same function in problems.jl.
        u0, end: the state at t = 0, float64, and the time where it is asked for.
        stiff: whether an explicit method's steps are bound by stability.
    """

    field: Callable[[Any], Callable[[Any], Any]]
    julia: str
    u0: npt.NDArray[np.float64]
    end: float
    stiff: bool = False


def _arenstorf(xp: Any) -> Callable[[Any], Any]:
    small = 0.012277471
    large = 1 - small

    def f(u: Any) -> Any:
        x, y, dx, dy = u[0], u[1], u[2], u[3]
        earth = ((x + small) ** 2 + y**2) ** 1.5
        moon = ((x - large) ** 2 + y**2) ** 1.5
        ddx = x + 2 * dy - large * (x + small) / earth - small * (x - large) / moon
        ddy = y - 2 * dx - large * y / earth - small * y / moon
        return xp.stack([dx, dy, ddx, ddy])

    return f


def _pleiades(xp: Any) -> Callable[[Any], Any]:
    masses = xp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], dtype=xp.float64)
    itself = xp.eye(7, dtype=xp.float64)

    def f(u: Any) -> Any:
        x, y = u[:7], u[7:14]
        across, up = x[None, :] - x[:, None], y[None, :] - y[:, None]
        pull = masses / (across * across + up * up + itself) ** 1.5
        return xp.concatenate([u[14:], (across * pull).sum(1), (up * pull).sum(1)])

    return f


def _lotka_volterra(xp: Any) -> Callable[[Any], Any]:
    def f(u: Any) -> Any:
        hares, lynx = u[0], u[1]
        return xp.stack([1.5 * hares - hares * lynx, hares * lynx - 3 * lynx])

    return f


def _orbit(xp: Any) -> Callable[[Any], Any]:
    def f(u: Any) -> Any:
        cubed = (u[0] * u[0] + u[1] * u[1]) ** 1.5
        return xp.concatenate([u[2:], -u[:2] / cubed])

    return f


def _brusselator(xp: Any) -> Callable[[Any], Any]:
    def f(u: Any) -> Any:
        x, y = u[:16], u[16:]
        one = xp.ones(1, dtype=xp.float64)

        def diffused(z: Any, end: float) -> Any:
            padded = xp.concatenate([end * one, z, end * one])
            return 0.02 * 17**2 * (padded[:-2] - 2 * z + padded[2:])

        reaction = x * x * y
        return xp.concatenate([1 + reaction - 4 * x + diffused(x, 1.0), 3 * x - reaction + diffused(y, 3.0)])

    return f


def _hires(xp: Any) -> Callable[[Any], Any]:
    def f(u: Any) -> Any:
        a, b, c, d, e, f, g, h = (u[i] for i in range(8))
        return xp.stack(
            [
                -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
                1.71 * a - 8.75 * b,
                -10.03 * c + 0.43 * d + 0.035 * e,
                8.32 * b + 1.71 * c - 1.12 * d,
                -1.745 * e + 0.43 * f + 0.43 * g,
                -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
                280 * f * h - 1.81 * g,
                -280 * f * h + 1.81 * g,
            ]
        )

    return f


def _robertson(xp: Any) -> Callable[[Any], Any]:
    def f(u: Any) -> Any:
        slow, fast, quick = 0.04 * u[0], 1e4 * u[1] * u[2], 3e7 * u[1] * u[1]
        return xp.stack([fast - slow, slow - fast - quick, quick])

    return f


_GRID = np.arange(1, 17) / 17

PROBLEMS: dict[str, TestProblem] = {
    "Lotka-Volterra": TestProblem(_lotka_volterra, "lotka_volterra!", np.array([1.0, 1.0]), 10.0),
    "DETEST D5": TestProblem(_orbit, "orbit!", np.array([0.1, 0.0, 0.0, 19**0.5]), 20.0),
    "Arenstorf": TestProblem(
        _arenstorf,
        "arenstorf!",
        np.array([0.994, 0.0, 0.0, -2.00158510637908252240537862224]),
        17.0652165601579625589,
    ),
    "Pleiades": TestProblem(
        _pleiades,
        "pleiades!",
        np.array(
            [
                *(3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0),
                *(3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0),
                *(0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5),
                *(0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0),
            ]
        ),
        3.0,
    ),
    "Brusselator": TestProblem(
        _brusselator,
        "brusselator!",
        np.concatenate([1 + np.sin(2 * np.pi * _GRID), np.full(16, 3.0)]),
        10.0,
        True,
    ),
    "HIRES": TestProblem(
        _hires, "hires!", np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057]), 321.8122, True
    ),
    "Robertson": TestProblem(_robertson, "robertson!", np.array([1.0, 0.0, 0.0]), 1e4, True),
}
