"""``compile=True`` on the CPU: solves of small states in one call, step for step as the time loop."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.explicit_rk import again_at_once, at_once, one_call, tensor_loop
from pylocalreg.engines.torch_engine.explicit_rk.reversed_at_once import AtOnceReplay
from pylocalreg.engines.torch_engine.explicit_rk.tensor_control import NUMBERS, fastpower
from pylocalreg.engines.torch_engine.fastpower import fastpower as right_fastpower
from pylocalreg.engines.torch_engine.functional import Tensors
from tests.conftest import Net, normal
from tests.test_captured import Scaled, assert_same
from tests.test_compiled import Keeping, pair

pytestmark = pytest.mark.skipif(inductor.unfit() is not None, reason=str(inductor.unfit()))


class Done:
    """Whether each solve, and each run of steps reversed, that was tried at once was made so."""

    def __init__(self) -> None:
        self.solves: list[bool] = []
        self.adjoints: list[bool] = []
        self.again: list[bool] = []

    def noting(self, inner: Any, into: list[bool]) -> Any:
        def noted(*args: Any) -> Any:
            into.append(False)
            given = inner(*args)
            into[-1] = given is not None
            return given

        return noted


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[Done]:
    """The kernels run as they were traced."""
    monkeypatch.setattr(inductor, "BACKEND", lambda graph, examples: graph.forward)
    done = Done()
    monkeypatch.setattr(at_once.AtOnce, "solve", done.noting(at_once.AtOnce.solve, done.solves))
    again = again_at_once.Again
    monkeypatch.setattr(again, "in_one_call", done.noting(again.in_one_call, done.again))
    monkeypatch.setattr(AtOnceReplay, "_run", done.noting(AtOnceReplay._run, done.adjoints))
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


@pytest.mark.parametrize("solver", ["Vern7", pytest.param("BS3", marks=pytest.mark.thorough)])
def test_every_method(done: Done, solver: str) -> None:
    assert_same_steps(*pair(solver=solver), normal(4, 3))
    assert done.solves == [True, True]
    assert done.adjoints == [True]


@pytest.mark.parametrize(
    "options",
    [
        {"tspan": (1.0, -0.5), "gamma": 0.7, "qmin": 0.3, "qmax": 2.0, "qsteady_max": 1.2},
        pytest.param(
            {"tspan": (-2.0, 0.25), "saveat": [-2.0, 0.25], "dtmax": 0.05}, marks=pytest.mark.thorough
        ),
        {"dt": 1.0, "abstol": 1e-7, "reltol": 1e-7, "solver": "DP5"},
        {
            "regularizer": plr.LocalRegularizer("biased", generator=torch.Generator()),
            "adjoint": "backsolve",
        },
    ],
)
def test_every_option(done: Done, options: dict[str, Any]) -> None:
    stats = assert_same_steps(*pair(**options), normal(4, 3))
    assert all(done.solves)
    assert ("abstol" in options) == (stats.nreject > 0)


@pytest.mark.parametrize(
    "options",
    [
        {"controller": "PID"},
        {"controller": plr.PIDController(0.6, -0.2, 0.1, 0.9), "dt": 1.0, "qsteady_max": 1.1},
        {"controller": "I", "dt": 1.0},
        {"landing": "even"},
        {"controller": "PID", "landing": "even", "tspan": (1.0, -0.5), "dtmax": 0.3, "saveat": [0.2]},
    ],
)
@pytest.mark.parametrize("room", [3, pytest.param(64, marks=pytest.mark.thorough)])
def test_controllers_and_landings(
    done: Done, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], room: int
) -> None:
    for module in (at_once, tensor_loop):
        monkeypatch.setattr(module, "STEPS", room)
    stats = assert_same_steps(*pair(abstol=1e-7, reltol=1e-7, **options), normal(4, 3))
    assert all(done.solves)
    assert ("dt" in options) == (stats.nreject > 0)


def test_more_steps_than_one_call_has_room_for(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (at_once, tensor_loop):
        monkeypatch.setattr(module, "STEPS", 3)
    stats = assert_same_steps(*pair(dt=0.3, abstol=1e-8, reltol=1e-8), normal(4, 3))
    assert stats.naccept > 6
    assert all(done.solves)


@pytest.mark.parametrize(
    "options",
    [
        {"saveat": [0.5], "solver": "Vern7"},
        {"tstops": [0.4]},
        {"controller": plr.PIDController(limiter=lambda x: min(x, 3.0))},
        {"dtmin": 1e-4},
    ],
)
def test_what_takes_steps_one_by_one(done: Done, options: dict[str, Any]) -> None:
    assert_same_steps(*pair(**options), normal(4, 3))
    assert done.solves == []


def test_times_inside_the_span(done: Done) -> None:
    saveat = [1.0, *torch.linspace(0.9, -0.4, 20).tolist(), -0.5]
    one, other = pair(abstol=1e-7, reltol=1e-7, tspan=(1.0, -0.5), saveat=saveat)
    assert_same_steps(one, other, normal(4, 3))
    assert all(done.solves)
    assert done.adjoints == [True]
    np.testing.assert_array_equal(one(normal(4, 3)).t, other(normal(4, 3)).t)


def test_a_time_at_which_a_step_ends_and_more_steps_than_one_call_has_room_for(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (at_once, tensor_loop):
        monkeypatch.setattr(module, "STEPS", 3)
    with torch.no_grad():
        ends = pair()[0](normal(4, 3)).steps.t.tolist()
    assert len(ends) > 7
    assert_same(*pair(saveat=[ends[2], 0.5 * (ends[5] + ends[6]), ends[6]]), normal(4, 3))
    assert all(done.solves)
    assert done.adjoints == [True]


@pytest.mark.parametrize(
    ("sampling", "options", "runs"),
    [
        ("unbiased", {}, 1),
        ("biased", {"through_state": True}, 2),
    ],
)
def test_a_step_with_an_estimate_is_reversed_between_runs(
    done: Done, sampling: plr.Sampling, options: dict[str, Any], runs: int
) -> None:
    regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator(), **options)
    assert_same(*pair(regularizer=regularizer, saveat=[0.3, 0.9]), normal(4, 3))
    assert all(done.solves)
    assert done.adjoints == [True] * runs


def test_large_states_take_steps_one_by_one(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_call, "SMALL", 11)
    assert_same_steps(*pair(), normal(4, 3))
    assert done.solves == []


def test_dynamics_that_store_something_take_steps_one_by_one(done: Done) -> None:
    assert_same_steps(*pair(Keeping(3)), normal(4, 3))
    assert not any(done.solves)


def test_a_number_that_the_dynamics_hold_may_change_a_few_times(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inductor.OF_LOOPS, "recompile_limit", 1)
    field = Scaled(3)
    one, other = pair(field)
    for scale in (1.0, 1.0, 0.5):
        field.scale = scale
        assert_same(one, other, normal(4, 3))
    assert done.solves == [True, True, False]
    assert done.adjoints == [True, True, False]


def test_what_the_dynamics_hold_is_looked_at(done: Done) -> None:
    field = Scaled(3)
    one, other = pair(field)
    for scale in (1.0, 0.5):
        field.scale = torch.tensor(scale, dtype=torch.float64)
        assert_same_steps(one, other, normal(4, 3))
    assert all(done.solves)


class Exploding(Net):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return u * u + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [({"tspan": (0.0, 2.0)}, plr.errors.LocalRegError), ({"maxiters": 2}, plr.errors.StepLimitError)],
)
def test_a_solve_that_fails_says_why(done: Done, options: dict[str, Any], error: type[Exception]) -> None:
    one, other = pair(Exploding(3), **options)
    said = []
    for node in (one, other):
        with pytest.raises(error) as raised:
            node(normal(4, 3).abs())
        said.append(str(raised.value))
    assert said[0][:20] == said[1][:20]
    assert done.solves == [False]


def layers() -> torch.nn.Module:
    torch.manual_seed(0)
    chain = plr.TimeDependent(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3))
    return plr.NeuralODE(chain, engine="torch").double().dynamics


def test_layers_are_looked_at_once_for_all_solves(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, look = list[int](), inductor.InOneSolve._looked_at

    def counted(self: inductor.InOneSolve, tensors: Tensors) -> Tensors:
        looked.append(1)
        return look(self, tensors)

    monkeypatch.setattr(inductor.InOneSolve, "_looked_at", counted)
    one, other = pair(layers(), tspan=(0.0, 0.2))  # of few steps
    for seed in range(3):
        assert_same(one, other, normal(4, 3, seed=seed))
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1.1)
    assert len(looked) == 2  # the solve and its adjoint
    assert_same(one, other, normal(5, 3))
    assert len(looked) == 4


def _hook(field: torch.nn.Module) -> None:
    field.register_forward_hook(lambda module, inputs, k: 2 * k)


def _other_parameter(field: Any) -> None:
    field.p = torch.nn.Parameter(2 * field.p.detach())


def _other_layers(field: Any) -> None:
    field.description = plr.TimeDependent(plr.Dense(3, 4, "sigmoid"), plr.Dense(4, 3))


def _own_forward(field: Any) -> None:
    forward = field.forward
    field.forward = lambda t, u: 2 * forward(t, u)


@pytest.mark.parametrize(
    "change",
    [
        _hook,
        _other_parameter,
        pytest.param(_other_layers, marks=pytest.mark.thorough),
        pytest.param(_own_forward, marks=pytest.mark.thorough),
    ],
)
def test_layers_that_are_changed_are_looked_at_again(done: Done, change: Callable[[Any], None]) -> None:
    field = layers()
    one, other = pair(field)
    u0, inside = normal(4, 3), {"dense": True}  # whose steps are taken one by one
    before = other(u0).u
    other(u0, **inside)
    change(field)
    assert_same(one, other, u0)
    assert not torch.allclose(other(u0).u, before)
    torch.testing.assert_close(other(u0, **inside).u, one(u0, **inside).u, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dt": "last", "controller": "PID", "landing": "even"},
        pytest.param({"saveat": [0.0, 0.4, 1.0]}, marks=pytest.mark.thorough),
        pytest.param({"tspan": (1.0, 0.0), "dt": 0.1}, marks=pytest.mark.thorough),
    ],
)
def test_layers_solved_again_without_gradient(done: Done, options: dict[str, Any]) -> None:
    one, other = pair(layers(), **options)
    with torch.no_grad():
        for seed in range(4):
            u0 = normal(4, 3, seed=seed)
            expected, solution = one(u0), other(u0)
            torch.testing.assert_close(solution.u, expected.u, rtol=1e-9, atol=1e-10)
            assert solution.stats == expected.stats
            for name in ("t", "dt", "EEst"):
                ours, right = getattr(solution.steps, name), getattr(expected.steps, name)
                np.testing.assert_allclose(ours, right, rtol=1e-6, atol=1e-12)
            one.get_parameter("dynamics.p").mul_(1.1)
    assert done.again == ([] if "saveat" in options else [True, True, True])


def _other_elements(field: Any) -> None:
    with torch.no_grad():
        field.p.mul_(2)


@pytest.mark.parametrize("change", [_hook, _other_parameter, _other_layers, _own_forward, _other_elements])
def test_layers_changed_between_solves_without_gradient(done: Done, change: Callable[[Any], None]) -> None:
    field = layers()
    one, other = pair(field, tspan=(0.0, 0.3))
    u0 = normal(4, 3)
    with torch.no_grad():
        before = [other(u0).u for _ in range(3)][-1]
        change(field)
        for _ in range(3):
            after = other(u0).u
            torch.testing.assert_close(after, one(u0).u, rtol=1e-9, atol=1e-10)
            assert not torch.allclose(after, before)


def test_what_is_set_on_layers_is_seen_between_solves(done: Done) -> None:
    field, looked = layers(), torch.get_num_threads()
    one, other = pair(field, tspan=(0.0, 0.3))
    u0 = normal(4, 3)
    with torch.no_grad():
        for _ in range(3):
            other(u0)
        field.__dict__["note"] = "an attribute"
        torch.set_num_threads(2)
        try:
            torch.testing.assert_close(other(u0).u, one(u0).u, rtol=1e-9, atol=1e-10)
        finally:
            torch.set_num_threads(looked)
        field.register_buffer("scale", torch.ones(()))
        torch.testing.assert_close(other(u0).u, one(u0).u, rtol=1e-9, atol=1e-10)
    assert done.again == [True, True, True, False]


def test_more_steps_than_one_call_again(done: Done) -> None:
    one, other = pair(layers(), dtmax=1 / 70)
    with torch.no_grad():
        for seed in range(3):
            u0 = normal(4, 3, seed=seed)
            solution = other(u0)
            assert solution.stats == one(u0).stats
            torch.testing.assert_close(solution.u, one(u0).u, rtol=1e-9, atol=1e-10)
    assert solution.stats.naccept > tensor_loop.STEPS
    assert done.again == [False]  # not tried any more
    assert done.solves == [True, True, True]


def test_no_good_end_again(done: Done) -> None:
    _, other = pair(layers())
    with torch.no_grad():
        other(normal(4, 3))
        with pytest.raises(plr.errors.NonFiniteError):
            other(normal(4, 3) * torch.inf)
        assert other(normal(4, 3)).stats.naccept
    assert done.again == [False, True]


def test_one_step(done: Done) -> None:
    assert assert_same_steps(*pair(tspan=(0.0, 1e-3)), normal(4, 3)).naccept == 1
    assert done.adjoints == [True]


def test_the_adjoint_of_both_ends(done: Done) -> None:
    assert_same(*pair(saveat=[0.0, 1.0]), normal(4, 3))
    assert done.adjoints == [True]


def test_a_parameter_that_is_not_used_and_one_that_is_frozen(done: Done) -> None:
    field = Net(3)
    field.register_parameter("a", torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    one, other = pair(field)
    for frozen in (False, True):
        field.w1.requires_grad_(not frozen)
        for node in (one, other):
            node.zero_grad()
            node(normal(4, 3)).u.sum().backward()
            gradients = [p.grad for p in field.parameters()]
            if node is one:
                right = gradients
        assert [g is None for g in gradients] == [g is None for g in right]
        assert (field.w1.grad is None) == frozen
        torch.testing.assert_close(field.w2.grad, right[2], rtol=1e-6, atol=1e-9)
    assert all(done.adjoints)


class Evading(Net):
    """Reaches a parameter in a way that no substitution sees."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.held = [self.c]

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return super().forward(t, u) * self.held[0]


def test_an_adjoint_that_is_not_that_of_plain_steps_is_not_taken(done: Done) -> None:
    one, other = pair(Evading(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert_same(one, other, normal(4, 3))
    assert not any(done.adjoints)


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
