"""Coefficients over training."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylocalreg.errors import OptionError
from pylocalreg.schedules import Constant, Cosine, Exponential

coefficients = st.floats(1e-3, 1e3)


def test_constant() -> None:
    assert [Constant(2.5)(step) for step in (0, 1, 1000)] == [2.5] * 3
    assert Constant(0.0)(3) == 0.0


@settings(derandomize=True, deadline=None, max_examples=50)
@given(start=coefficients, end=coefficients, steps=st.integers(1, 500))
def test_exponential_has_a_constant_factor(start: float, end: float, steps: int) -> None:
    schedule = Exponential(start, end, steps)
    assert schedule(0) == pytest.approx(start)
    for step in range(min(steps, 5)):
        assert schedule(step + 1) / schedule(step) == pytest.approx((end / start) ** (1 / steps))
    assert schedule(steps) == pytest.approx(end)
    assert schedule(steps + 100) == pytest.approx(end)


def test_papers_schedule() -> None:
    schedule = Exponential(2.5, 1.0, 100)
    assert schedule(50) == pytest.approx(math.sqrt(2.5))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(start=coefficients, end=coefficients, steps=st.integers(1, 500))
def test_cosine_is_half_a_wave(start: float, end: float, steps: int) -> None:
    schedule = Cosine(start, end, 2 * steps)
    assert schedule(0) == pytest.approx(start)
    assert schedule(steps) == pytest.approx((start + end) / 2)
    assert schedule(2 * steps) == pytest.approx(end)
    assert schedule(2 * steps + 7) == pytest.approx(end)
    values = [schedule(step) for step in range(2 * steps + 1)]
    assert values == sorted(values, reverse=end < start)


def test_cosine_quarter() -> None:
    assert Cosine(1.0, 0.0, 4)(1) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_coefficients(bad: float) -> None:
    for make in (
        lambda: Constant(bad),
        lambda: Exponential(bad, 1.0, 10),
        lambda: Exponential(1.0, bad, 10),
        lambda: Cosine(bad, 1.0, 10),
        lambda: Cosine(1.0, bad, 10),
    ):
        with pytest.raises(OptionError, match=str(bad)):
            make()


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(steps: int) -> None:
    with pytest.raises(OptionError, match=f"not {steps}"):
        Exponential(1.0, 2.0, steps)
    with pytest.raises(OptionError, match=f"not {steps}"):
        Cosine(1.0, 2.0, steps)


def test_exponential_never_reaches_zero() -> None:
    with pytest.raises(OptionError, match=r"2\.0 to 0\.0"):
        Exponential(2.0, 0.0, 5)
    with pytest.raises(OptionError, match=r"0\.0 to 2\.0"):
        Exponential(0.0, 2.0, 5)
