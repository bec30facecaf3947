"""Densities in two dimensions, those of FFJORD (Grathwohl et al. 2019), after its toy_data.py."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pylocalreg.experiments.config import Points
from pylocalreg.experiments.task import DataSet

Array = npt.NDArray[np.float64]
Rng = np.random.Generator

SEED = 0
"""The same points in every run: they are data, as a file's would be."""


def load(source: Points) -> DataSet:
    """Points of shape ``(n, 2)``, float64: a training set and a test set of ``source.samples``."""
    points = draw(source.density, 2 * source.samples, np.random.default_rng(SEED))
    train, test = torch.from_numpy(points).chunk(2)
    return DataSet((train,), (test,), f"{source.density}, {source.samples} points")


def draw(density: str, count: int, rng: Rng) -> Array:
    """``count`` independent points of a density, shape ``(count, 2)``."""
    return DENSITIES[density](count, rng)


def _polar(radius: Array, angle: Array) -> Array:
    points: Array = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points


def _eight_gaussians(count: int, rng: Rng) -> Array:
    """Around the corners of an octagon."""
    corners = _polar(np.full(count, 4.0), rng.integers(8, size=count) * np.pi / 4)
    return (corners + 0.5 * rng.normal(size=(count, 2))) / 2**0.5


def _two_spirals(count: int, rng: Rng) -> Array:
    """Arms of one and a half turns, one opposite to the other."""
    turned = 3 * np.pi * np.sqrt(rng.random(count))
    arm = _polar(turned, np.pi - turned) + 0.5 * rng.random((count, 2))
    side = rng.choice([-1.0, 1.0], size=(count, 1))
    return side * arm / 3 + 0.1 * rng.normal(size=(count, 2))


def _checkerboard(count: int, rng: Rng) -> Array:
    """The black squares of 4 x 4, each of size 2."""
    x = 4 * rng.random(count) - 2
    y = rng.random(count) - 2 * rng.integers(2, size=count) + np.floor(x) % 2
    return 2 * np.stack([x, y], axis=1)


def _circles(count: int, rng: Rng) -> Array:
    """Two, one twice as large as the other."""
    return _on_circles(np.array([1.0, 0.5]), count, rng)


def _rings(count: int, rng: Rng) -> Array:
    """Four, a quarter apart."""
    return _on_circles(np.array([1.0, 0.75, 0.5, 0.25]), count, rng)


def _on_circles(radii: Array, count: int, rng: Rng) -> Array:
    on = _polar(rng.choice(radii, size=count), 2 * np.pi * rng.random(count))
    return 3 * on + 0.08 * rng.normal(size=(count, 2))


def _moons(count: int, rng: Rng) -> Array:
    """Two half circles that reach into each other."""
    angle, lower = np.pi * rng.random(count), rng.integers(2, size=(count, 1))
    upper = _polar(np.ones(count), angle)
    moons = np.where(lower, [1.0, 0.5] - upper, upper) + 0.1 * rng.normal(size=(count, 2))
    return 2 * moons + [-1.0, -0.2]


def _pinwheel(count: int, rng: Rng) -> Array:
    """Five blades, bent the more the farther out."""
    out = rng.normal(size=(count, 2)) * [0.3, 0.1] + [1.0, 0.0]
    angle = rng.integers(5, size=count) * 2 * np.pi / 5 + 0.25 * np.exp(out[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([out[:, 0] * cos - out[:, 1] * sin, out[:, 0] * sin + out[:, 1] * cos], axis=1)


def _swissroll(count: int, rng: Rng) -> Array:
    """A spiral from three quarters of a turn to two and a quarter."""
    angle = 1.5 * np.pi * (1 + 2 * rng.random(count))
    return (_polar(angle, angle) + rng.normal(size=(count, 2))) / 5


DENSITIES: dict[str, Callable[[int, Rng], Array]] = {
    "8gaussians": _eight_gaussians,
    "2spirals": _two_spirals,
    "checkerboard": _checkerboard,
    "circles": _circles,
    "moons": _moons,
    "pinwheel": _pinwheel,
    "rings": _rings,
    "swissroll": _swissroll,
}
