"""The Brownian path over lengths other than 1: every variance is that of the length."""

import math

import pytest
import torch
from scipy import stats

import pylocalreg as plr

PATHS = 4000
LENGTHS = (0.01, 0.3, 4.0)


def _path(seed: int) -> plr.BrownianPath:
    return plr.BrownianPath(0.0, (PATHS,), seed=seed, dtype=torch.float64)


def _assert_normal(x: torch.Tensor, variance: float) -> None:
    scaled = (x / math.sqrt(variance)).numpy()
    assert stats.kstest(scaled, "norm").pvalue > 1e-4
    assert 1e-4 < stats.chi2.cdf(float((scaled**2).sum()), PATHS) < 1 - 1e-4


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_bridge(length: float, share: float) -> None:
    """Given dW of the whole, that of a part is normal about its share, of variance left right / length."""
    w = _path(1)
    whole, left = w.dW(0.0, length), share * length
    _assert_normal(w.dW(0.0, left) - share * whole, left * (length - left) / length)
    _assert_normal(w.dW(0.0, left), left)
    _assert_normal(w.dW(left, length), length - left)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_bridge_of_a_step_whose_dZ_is_known(length: float, share: float) -> None:
    """The given mean M and dW of the whole leave dW of a part the mean s (3 s - 2) dW + 6 s (1 - s) M and,
    with s the share, the variance length s (1 - s) (1 - 3 s (1 - s)).
    """
    w = _path(2)
    whole, dZ, s = w.dW(0.0, length), w.dZ(0.0, length), share
    mean = (whole + dZ / math.sqrt(3)) / 2
    _assert_normal(dZ, length)
    part = w.dW(0.0, s * length)
    rest = part - s * (3 * s - 2) * whole - 6 * s * (1 - s) * mean
    _assert_normal(rest, length * s * (1 - s) * (1 - 3 * s * (1 - s)))
    for start, end in ((0.0, s * length), (s * length, length)):
        _assert_normal(w.dW(start, end), end - start)
        _assert_normal(w.dZ(start, end), end - start)


@pytest.mark.parametrize("length", LENGTHS)
def test_increments_beyond_what_is_known(length: float) -> None:
    w = _path(3)
    w.dW(0.0, 0.7)
    _assert_normal(w.dW(0.7, 0.7 + length), length)
    _assert_normal(w.dZ(0.7, 0.7 + length), length)
