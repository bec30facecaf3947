"""``compile=True`` on the CPU: solves of small states in one call, step for step as the time loop."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.explicit_rk import at_once, tensor_solve
from pylocalreg.engines.torch_engine.explicit_rk.tensor_control import NUMBERS, fastpower
from pylocalreg.engines.torch_engine.fastpower import fastpower as right_fastpower
from tests.conftest import Net, normal
from tests.test_captured import Scaled, assert_same
from tests.test_compiled import Keeping, pair

pytestmark = pytest.mark.skipif(
    torch.__version__ < inductor.COMPILES_ONCE, reason="this torch compiles again for every solve"
)


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each solve was made at once. The kernels run as they were traced."""
    monkeypatch.setattr(inductor, "BACKEND", lambda graph, examples: graph.forward)
    inner, done = at_once._solved, list[bool]()

    def noted(*args: Any) -> Any:
        done.append(False)
        trajectory = inner(*args)
        done[-1] = trajectory is not None
        return trajectory

    monkeypatch.setattr(at_once, "_solved", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield done


def assert_same_steps(one: plr.NeuralODE, other: plr.NeuralODE, u0: torch.Tensor) -> plr.Stats:
    with torch.no_grad():
        left, right = one(u0), other(u0)
    for name in ("t", "dt", "EEst"):
        np.testing.assert_allclose(
            getattr(right.steps, name), getattr(left.steps, name), rtol=1e-6, atol=1e-12
        )
    return assert_same(one, other, u0)


@pytest.mark.parametrize("solver", ["BS3", "DP5", "Tsit5", "Vern7"])
def test_every_method(solved: list[bool], solver: str) -> None:
    assert_same_steps(*pair(solver=solver), normal(4, 3))
    assert solved == [True, True]


@pytest.mark.parametrize(
    "options",
    [
        {"tspan": (1.0, -0.5)},
        {"tspan": (-2.0, 0.25), "saveat": [-2.0, 0.25]},
        {"dt": 1.0, "abstol": 1e-7, "reltol": 1e-7},
        {"dtmax": 0.05},
        {"gamma": 0.7, "qmin": 0.3, "qmax": 2.0, "qsteady_max": 1.2},
        {"regularizer": plr.LocalRegularizer("biased", generator=torch.Generator())},
        {"adjoint": "backsolve"},
    ],
)
def test_every_option(solved: list[bool], options: dict[str, Any]) -> None:
    stats = assert_same_steps(*pair(**options), normal(4, 3))
    assert all(solved)
    assert ("abstol" in options) == (stats.nreject > 0)


def test_more_steps_than_one_call_has_room_for(solved: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (at_once, tensor_solve):
        monkeypatch.setattr(module, "STEPS", 3)
    stats = assert_same_steps(*pair(dt=0.3, abstol=1e-8, reltol=1e-8), normal(4, 3))
    assert stats.naccept > 6
    assert all(solved)


@pytest.mark.parametrize(
    "options",
    [{"saveat": [0.5]}, {"tstops": [0.4]}, {"controller": "PID"}, {"dtmin": 1e-4}, {"landing": "even"}],
)
def test_what_takes_steps_one_by_one(solved: list[bool], options: dict[str, Any]) -> None:
    assert_same_steps(*pair(**options), normal(4, 3))
    assert solved == []


def test_large_states_take_steps_one_by_one(solved: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "SMALL", 11)
    assert_same_steps(*pair(), normal(4, 3))
    assert solved == []


@pytest.mark.parametrize("dynamics", [Keeping(3), Scaled(3)])
def test_dynamics_that_store_something_or_hold_a_number_take_steps_one_by_one(
    solved: list[bool], dynamics: Net
) -> None:
    assert_same_steps(*pair(dynamics), normal(4, 3))
    assert not any(solved)


def test_what_the_dynamics_hold_is_looked_at(solved: list[bool]) -> None:
    field = Scaled(3)
    one, other = pair(field)
    for scale in (1.0, 0.5):
        field.scale = torch.tensor(scale, dtype=torch.float64)
        assert_same_steps(one, other, normal(4, 3))
    assert all(solved)


class Exploding(Net):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return u * u + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [({"tspan": (0.0, 2.0)}, plr.errors.LocalRegError), ({"maxiters": 2}, plr.errors.StepLimitError)],
)
def test_a_solve_that_fails_says_why(
    solved: list[bool], options: dict[str, Any], error: type[Exception]
) -> None:
    one, other = pair(Exploding(3), **options)
    said = []
    for node in (one, other):
        with pytest.raises(error) as raised:
            node(normal(4, 3).abs())
        said.append(str(raised.value))
    assert said[0][:20] == said[1][:20]
    assert solved == [False]


def test_the_power_is_that_of_the_controller_when_compiled() -> None:
    numbers = torch.tensor(NUMBERS[1:], dtype=torch.float64)
    x = torch.logspace(-12, 12, 400, dtype=torch.float64)

    def power(x: torch.Tensor, y: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return fastpower(x, y, numbers.unbind())

    compiled = torch.compile(power, dynamic=True, fullgraph=True, backend=inductor.inductor)
    for exponent in (0.14, 0.08, 1 / 3):
        y = torch.tensor(exponent, dtype=torch.float64)
        right = [right_fastpower(value, exponent) for value in x.tolist()]
        assert compiled(x, y, numbers).tolist() == right
