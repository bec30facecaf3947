"""Coefficients over training."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylocalreg.errors import OptionError
from pylocalreg.schedules import Constant, Cosine, Exponential, NFEBudget
from pylocalreg.solution import Stats

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


def stats(nfe: int, nfe_regularizer: int = 0) -> Stats:
    return Stats(nfe + nfe_regularizer, 1, 0, nfe, nfe_regularizer)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(target=st.floats(20, 200), start=st.floats(1, 100), slope=st.floats(0.4, 1.0))
def test_budget_meets_its_target(target: float, start: float, slope: float) -> None:
    """NFE that fall with the coefficient, ten steps behind it, and come in steps of six."""
    budget = NFEBudget(target, start, largest=1e6 * start, smallest=1e-6 * start)
    log_nfe = math.log(300)
    for step in range(1500):
        log_nfe += 0.1 * (math.log(300) - slope * math.log(budget(step) / 5) - log_nfe)
        nfe = 3 + 6 * round((math.exp(log_nfe) - 3) / 6)
        budget.observe(stats(nfe, 7))
    assert math.exp(log_nfe) == pytest.approx(target, abs=6, rel=0.1)


def test_budget_stays_in_its_bounds() -> None:
    budget = NFEBudget(1.0, 2.0, smallest=0.5, largest=8.0)
    for _ in range(100):
        budget.observe(stats(1000))
    assert budget(0) == 8.0
    budget = NFEBudget(1000, 2.0, smallest=0.5, largest=8.0)
    for _ in range(200):
        budget.observe(stats(3))
    assert budget(0) == 0.5


def test_budget_resumes_where_it_was() -> None:
    one, other = NFEBudget(40, 2.0), NFEBudget(40, 2.0)
    one.observe(stats(100))
    other.load_state_dict(one.state_dict())
    assert other(0) == one(0) != 2.0


@pytest.mark.parametrize(
    "options",
    [
        {"target": 0.5},
        {"target": float("nan")},
        {"start": 0.0},
        {"gain": -1.0},
        {"smallest": 3.0},
        {"largest": 1.0},
    ],
)
def test_budget_that_can_not_be(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        NFEBudget(**({"target": 40.0, "start": 2.0} | options))
