"""The Brownian path: one value at a time, whatever is asked, and the right distribution of increments."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pylocalreg as plr

PATHS = 4000


def path(seed: int = 0, shape: tuple[int, ...] = (PATHS,)) -> plr.BrownianPath:
    return plr.BrownianPath(0.0, shape, seed=seed, dtype=torch.float64)


def test_what_was_drawn_stays() -> None:
    w = path(shape=(3,))
    ends = [(0.0, 0.4), (0.4, 1.0), (0.1, 0.2), (0.15, 0.7), (0.0, 1.0)]
    first = [(w.dW(*pair), w.dZ(*pair)) for pair in ends]
    for (start, end), (dW, dZ) in zip(ends, first, strict=True):
        torch.testing.assert_close(w.dW(start, end), dW, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(w.dZ(start, end), dZ, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(w(end) - w(start), dW, rtol=1e-12, atol=1e-13)
    assert list(w.times) == sorted({t for pair in ends for t in pair})
    assert torch.equal(w(0.0), torch.zeros(3, dtype=torch.float64))


def test_times_within_rounding_are_one() -> None:
    w = path(shape=(3,))
    one = w.dW(0.0, 0.3)
    assert torch.equal(w.dW(0.0, 0.1 + 0.2), one)
    assert len(w.times) == 2


def test_seeds_and_an_independent_path() -> None:
    def drawn(seed: int) -> torch.Tensor:
        w = path(seed, (3,))
        return torch.stack([w.dW(0.0, 1.0), w.dW(0.0, 0.5), w.dZ(0.0, 1.0)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(path(1, (3,)).independent(2).dW(0.0, 1.0), drawn(1)[0])


def test_before_the_start_there_is_nothing() -> None:
    with pytest.raises(plr.errors.TimeSpanError, match="starts at 0"):
        path()(-0.5)


def increments_after_rejections() -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """dt, dW and dZ of steps that were each tried longer first, as rejections force them to be."""
    w = path(seed=3)
    t, taken = 0.0, []
    rng = np.random.default_rng(0)
    while t < 1.0:
        tried = float(rng.uniform(0.1, 0.3))
        for _ in range(int(rng.integers(1, 4))):  # rejected: tried again shorter
            w.dW(t, t + tried)
            w.dZ(t, t + tried)
            tried *= float(rng.uniform(0.2, 0.9))
        taken.append((t, tried))
        t += tried
    dWs = torch.stack([w.dW(t, t + dt) for t, dt in taken])
    dZs = torch.stack([w.dZ(t, t + dt) for t, dt in taken])
    return [dt for _, dt in taken], dWs, dZs


def test_increments_after_rejections_are_normal_of_variance_dt() -> None:
    dts, dWs, dZs = increments_after_rejections()
    for increments in (dWs, dZs):
        for dt, increment in zip(dts, increments, strict=True):
            x = (increment / math.sqrt(dt)).numpy()
            assert stats.kstest(x, "norm").pvalue > 1e-4
            assert stats.chi2.sf(float((x**2).sum()), PATHS) > 1e-4
            assert stats.chi2.cdf(float((x**2).sum()), PATHS) > 1e-4
            assert abs(float(x.mean())) < 4 / math.sqrt(PATHS)


def test_increments_after_rejections_are_independent() -> None:
    _, dWs, dZs = increments_after_rejections()
    correlations = np.corrcoef(torch.cat([dWs, dZs]).numpy())
    off = correlations[~np.eye(len(correlations), dtype=bool)]
    assert np.abs(off).max() < 5 / math.sqrt(PATHS)
    squares = np.corrcoef(torch.cat([dWs, dZs]).square().numpy())
    assert np.abs(squares[~np.eye(len(squares), dtype=bool)]).max() < 5 / math.sqrt(PATHS)


def test_increments_of_an_adaptive_solve_with_rejections() -> None:
    """Of the steps a solver accepted: had it dropped what it had drawn, large increments would be missing."""
    scaled, rejected = [], 0
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        node = plr.NeuralSDE(
            lambda t, u: -u,
            lambda t, u: 0.5 * u,
            solver="RKMilCommute",
            abstol=1e-2,
            reltol=1e-2,
            dt=0.5,
            generator=generator,
            engine="torch",
        )
        solution = node(torch.ones(1, dtype=torch.float64))
        rejected += solution.stats.nreject
        assert solution.noise is not None
        scaled.append(float(solution.noise(1.0)))
    assert rejected >= 150
    assert stats.kstest(scaled, "norm").pvalue > 1e-3


def test_dZ_is_the_integral_of_the_path() -> None:
    """A long step's is that of its parts, drawn before it or after it."""
    w, h = path(seed=6), 1.0 / 64
    whole = w.dZ(0.0, 1.0)
    inside = torch.stack([w(i * h) for i in range(64)])
    means = [(w.dW(i * h, (i + 1) * h) + w.dZ(i * h, (i + 1) * h) / math.sqrt(3)) / 2 for i in range(64)]
    integral = ((inside + torch.stack(means)) * h).sum(0)
    torch.testing.assert_close(w.dZ(0.0, 1.0), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((w(1.0) + whole / math.sqrt(3)) / 2, integral, rtol=1e-9, atol=1e-9)
    trapezoid = (inside.sum(0) + w(1.0) / 2) * h
    rest = (integral - trapezoid).numpy() / math.sqrt(h**2 / 12)
    assert stats.kstest(rest, "norm").pvalue > 1e-4


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_parts_of_a_step_whose_dZ_is_known(share: float) -> None:
    """dW and dZ of both parts are four independent normals, and add up to the whole's."""
    w = path(seed=7)
    w.dZ(0.0, 1.0)
    ends = [(0.0, share), (share, 1.0)]
    parts = [x / math.sqrt(b - a) for a, b in ends for x in (w.dW(a, b), w.dZ(a, b))]
    for part in parts:
        assert stats.kstest(part.numpy(), "norm").pvalue > 1e-4
    correlations = np.corrcoef(torch.stack(parts).numpy())
    assert np.abs(correlations - np.eye(4)).max() < 5 / math.sqrt(PATHS)


def test_the_bridge_has_the_conditional_mean_and_variance() -> None:
    w = path(seed=5)
    whole = w.dW(0.0, 1.0)
    inside = w.dW(0.0, 0.3)
    rest = (inside - 0.3 * whole).numpy() / math.sqrt(0.3 * 0.7)
    assert stats.kstest(rest, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(rest, whole.numpy())[0, 1]) < 4 / math.sqrt(PATHS)
