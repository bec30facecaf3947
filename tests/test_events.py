"""Events: their times, states and gradients, against closed forms, finite differences and torchdiffeq."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq

import pylocalreg as plr
from pylocalreg.errors import NonFiniteError, OptionError, SaveAtError, ShapeError, StepLimitError
from pylocalreg.events import crossing
from tests.conftest import Net, normal
from tests.julia import ENGINES, needs_julia

F64 = torch.float64
ADJOINTS: tuple[plr.Adjoint, ...] = ("backsolve", "discrete", "gauss", "interpolating", "quadrature")
HEIGHT, GRAVITY, KEPT = 1.0, 9.81, 0.8

engines = pytest.mark.parametrize("engine", ENGINES)


class Ball(torch.nn.Module):
    """A height and a velocity, falling."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(GRAVITY, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.stack([u[1], -self.gravity])


class Bounce(torch.nn.Module):
    """A share of the velocity is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.nn.Parameter(torch.tensor(KEPT, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(u[0]), -self.kept * u[1]])


def height(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return u[0]


def start() -> torch.Tensor:
    return torch.tensor([HEIGHT, 0.0], dtype=F64, requires_grad=True)


def bouncing(tspan: tuple[float, float] = (0.0, 2.0), **options: Any) -> plr.NeuralODE:
    event = plr.Event(height, Bounce(), terminate=False, direction=-1)
    defaults: dict[str, Any] = {"abstol": 1e-10, "reltol": 1e-10, "engine": "torch"}
    return plr.NeuralODE(Ball(), tspan, event=event, **(defaults | options))


def exact(t: float, h: torch.Tensor, g: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Where the ball is at ``t``: after its last bounce it was thrown up with e^n times the first one's
    speed.
    """
    v = torch.sqrt(2 * g * h)
    bounced, n = v / g, 1
    while float(bounced + 2 * e**n * v / g) < t:
        bounced, n = bounced + 2 * e**n * v / g, n + 1
    return e**n * v * (t - bounced) - g * (t - bounced) ** 2 / 2


@engines
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_bouncing_ball(engine: str, adjoint: plr.Adjoint) -> None:
    node, u0 = bouncing(adjoint=adjoint, engine=engine, saveat=[0.3, 1.0, 2.0]), start()
    solution = node(u0)
    assert solution.t.tolist() == [0.3, 1.0, 2.0]
    first = math.sqrt(2 * HEIGHT / GRAVITY)
    bounces = [first, first * (1 + 2 * KEPT), first * (1 + 2 * KEPT + 2 * KEPT**2)]
    np.testing.assert_allclose([float(event.t.detach()) for event in solution.events], bounces, rtol=1e-12)
    inputs = [torch.tensor(x, dtype=F64, requires_grad=True) for x in (HEIGHT, GRAVITY, KEPT)]
    for i, t in enumerate((1.0, 2.0), start=1):
        expected = exact(t, *inputs)
        torch.testing.assert_close(solution.u[i, 0], expected, rtol=1e-10, atol=0)
        wanted = torch.autograd.grad(expected, inputs)
        by_u0, *by_params = torch.autograd.grad(
            solution.u[i, 0], [u0, *(node.get_parameter(n) for n in NAMES)], retain_graph=True
        )
        torch.testing.assert_close([by_u0[0], *by_params], list(wanted), rtol=1e-7, atol=0)


NAMES = ("dynamics.gravity", "events.0.affect.kept")


@engines
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_an_end(engine: str, adjoint: plr.Adjoint) -> None:
    node = plr.NeuralODE(
        Ball(),
        (0.0, 5.0),
        event=plr.Event(height),
        adjoint=adjoint,
        engine=engine,
        abstol=1e-10,
        reltol=1e-10,
    )
    u0 = start()
    solution = node(u0)
    (fall,) = solution.events
    assert float(fall.t) == solution.t[-1] == pytest.approx(math.sqrt(2 * HEIGHT / GRAVITY), rel=1e-12)
    assert torch.equal(solution.u, fall.u)
    assert abs(float(solution.u[0])) < 1e-12
    inputs = [u0, node.get_parameter("dynamics.gravity")]
    by_u0, by_gravity = torch.autograd.grad(fall.t, inputs, retain_graph=True)
    assert float(by_gravity) == pytest.approx(-solution.t[-1] / GRAVITY / 2, rel=1e-8)
    assert float(by_u0[0]) == pytest.approx(solution.t[-1] / HEIGHT / 2, rel=1e-8)
    by_u0, by_gravity = torch.autograd.grad(solution.u[1], inputs)  # v = -sqrt(2 g h)
    assert float(by_gravity) == pytest.approx(float(solution.u[1]) / GRAVITY / 2, rel=1e-8)
    assert float(by_u0[0]) == pytest.approx(float(solution.u[1]) / HEIGHT / 2, rel=1e-8)


@needs_julia
@pytest.mark.parametrize("solver", ["Vern9", "Rodas4", "VCABM3"])
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
def test_other_algorithms_of_the_stack(solver: str, adjoint: plr.Adjoint) -> None:
    node = bouncing((0.0, 1.0), solver=solver, adjoint=adjoint, engine="julia")
    u0 = start()
    solution = node(u0)
    inputs = [torch.tensor(x, dtype=F64, requires_grad=True) for x in (HEIGHT, GRAVITY, KEPT)]
    expected = exact(1.0, *inputs)
    torch.testing.assert_close(solution.u[0], expected, rtol=1e-9, atol=0)
    wanted = torch.autograd.grad(expected, inputs)
    by_u0, *by_params = torch.autograd.grad(solution.u[0], [u0, *(node.get_parameter(n) for n in NAMES)])
    torch.testing.assert_close([by_u0[0], *by_params], list(wanted), rtol=1e-6, atol=0)


class NeuralEvent(torch.nn.Module):
    """A condition that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        ).double()

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.layers(torch.cat([u, t.reshape(1)])) + t / 2 - 1
        return value


@engines
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_neural_event_as_odeint_event(engine: str, adjoint: plr.Adjoint) -> None:
    condition, dynamics = NeuralEvent(), Net(2)
    params = [*condition.parameters(), *dynamics.parameters()]
    u0 = normal(2, seed=1)
    node = plr.NeuralODE(
        dynamics,
        (0.0, 8.0),
        event=plr.Event(condition),
        adjoint=adjoint,
        engine=engine,
        abstol=1e-11,
        reltol=1e-11,
    )
    assert len(list(node.parameters())) == len(params)
    solution = node(u0)
    assert len(solution.events) == 1
    t, u = torchdiffeq.odeint_event(
        dynamics,
        u0,
        torch.tensor(0.0, dtype=F64),
        event_fn=condition,
        rtol=1e-11,
        atol=1e-11,
        method="dopri5",
        odeint_interface=torchdiffeq.odeint,
    )
    torch.testing.assert_close(solution.events[0].t, t, rtol=1e-9, atol=0)
    ours = torch.autograd.grad(solution.events[0].t + solution.u.sum(), params)
    theirs = torch.autograd.grad(t + u[-1].sum(), list(dynamics.parameters()))  # it gives the event's none
    for a, b in zip(ours[-len(theirs) :], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    weight, step = params[0], 1e-5
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[0, 0] += sign * step
            moved = node(u0)
            values.append(float(moved.events[0].t + moved.u.sum()))
            weight[0, 0] -= sign * step
    assert float(ours[0][0, 0]) == pytest.approx((values[0] - values[1]) / step / 2, rel=1e-5)


def test_finite_differences_through_event_and_affect() -> None:
    def value(shift: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        event = plr.Event(
            lambda t, u: u[0] - 0.3 * torch.sin(3 * t) - shift,
            lambda t, u: torch.stack([u[0] + gain * t, -gain * u[1] ** 2]),
            terminate=False,
        )
        node = plr.NeuralODE(
            lambda t, u: torch.stack([u[1], -u[0] + t / 5]),
            (0.0, 3.0),
            event=event,
            abstol=1e-11,
            reltol=1e-11,
            engine="torch",
        )
        solution = node(torch.tensor([1.0, -0.3], dtype=F64))
        assert len(solution.events) >= 1
        result: torch.Tensor = solution.u.prod() + solution.events[-1].t
        return result

    inputs = tuple(torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.2, 0.7))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("tspan", [(0.0, 10.0), (0.0, -10.0)])
def test_directions(direction: int, tspan: tuple[float, float]) -> None:
    sign = 1.0 if tspan[1] > 0 else -1.0  # along the solve
    event = plr.Event(lambda t, u: u[0], lambda t, u: u, terminate=False, direction=direction)
    node = plr.NeuralODE(
        lambda t, u: torch.stack([u[1], -u[0]]), tspan, event=event, abstol=1e-9, reltol=1e-9, engine="torch"
    )
    solution = node(torch.tensor([1.0, 0.0], dtype=F64))
    zeros = [math.pi / 2 * (2 * n + 1) * sign for n in range(3)]  # of the cosine: down, up, down
    wanted = {-1: [zeros[0], zeros[2]], 0: zeros, 1: [zeros[1]]}[direction]
    np.testing.assert_allclose([float(one.t.detach()) for one in solution.events], wanted, rtol=1e-8)
    torch.testing.assert_close(solution.u[0], torch.tensor(math.cos(10.0), dtype=F64), rtol=0, atol=1e-7)


def test_two_crossings_in_one_step() -> None:
    event = plr.Event(lambda t, u: (t - 0.5) ** 2 - 0.04)
    options: dict[str, Any] = {"solver": "Euler", "dt": 1.0, "engine": "torch"}
    solution = plr.NeuralODE(lambda t, u: torch.ones_like(u), event=event, **options)(
        torch.zeros(1, dtype=F64)
    )
    assert float(solution.events[0].t) == pytest.approx(0.3, rel=1e-12)
    blind = plr.Event(event.condition, interp_points=1)
    solution = plr.NeuralODE(lambda t, u: torch.ones_like(u), event=blind, **options)(
        torch.zeros(1, dtype=F64)
    )
    assert float(solution.events[0].t) == pytest.approx(0.3, rel=1e-12)


def test_several_events_and_the_earliest_first() -> None:
    up = plr.Event(lambda t, u: u[0] - 0.5, lambda t, u: u + 1, terminate=False)
    end = plr.Event(lambda t, u: u[0] - 1.7)
    node = plr.NeuralODE(lambda t, u: torch.ones_like(u), (0.0, 3.0), event=[end, up], engine="torch")
    solution = node(torch.zeros(1, dtype=F64))
    assert [one.event for one in solution.events] == [1, 0]
    np.testing.assert_allclose([float(one.t.detach()) for one in solution.events], [0.5, 0.7], rtol=1e-10)
    assert float(solution.events[0].u) == pytest.approx(0.5)
    assert float(solution.u) == pytest.approx(1.7)


def test_saved_times_end_with_the_event() -> None:
    node = plr.NeuralODE(
        Ball(), (0.0, 2.0), event=plr.Event(height), saveat=[0.0, 0.1, 0.2, 1.0, 2.0], engine="torch"
    )
    solution = node(start())
    assert solution.t.tolist() == [0.0, 0.1, 0.2, float(solution.events[0].t)]
    assert solution.u.shape == (4, 2)
    late = node(torch.tensor([100.0, 0.0], dtype=F64))
    assert late.events == ()
    assert late.t.tolist() == [0.0, 0.1, 0.2, 1.0, 2.0]


def test_an_affect_before_the_end_is_in_the_last_state() -> None:
    event = plr.Event(height, Bounce())
    solution = plr.NeuralODE(Ball(), (0.0, 2.0), event=event, engine="torch")(start())
    assert float(solution.u[1]) == pytest.approx(-KEPT * float(solution.events[0].u[1]))


@engines
def test_steps_stats_and_dense_output_are_of_all_pieces(engine: str) -> None:
    with torch.no_grad():
        solution = bouncing(engine=engine)(start(), dense=True)
    steps = solution.steps
    np.testing.assert_allclose(steps.t[1:], (steps.t + steps.dt)[:-1], rtol=1e-12)
    assert steps.t[-1] + steps.dt[-1] == pytest.approx(2.0)
    assert solution.stats.naccept == len(steps.t)
    inputs = [torch.tensor(x, dtype=F64) for x in (HEIGHT, GRAVITY, KEPT)]
    for t in (0.1, 0.9, 1.5, 2.0):
        wanted = exact(t, *inputs) if t > 0.5 else HEIGHT - inputs[1] * t**2 / 2
        torch.testing.assert_close(solution(t)[0], wanted, rtol=1e-9, atol=0)
    with pytest.raises(SaveAtError, match="outside"):
        solution(2.1)
    with torch.no_grad():
        ended = plr.NeuralODE(Ball(), (0.0, 2.0), event=plr.Event(height), engine=engine)(start(), dense=True)
    with pytest.raises(SaveAtError, match="outside"):
        ended(1.0)


def test_calls_are_counted_once() -> None:
    calls = 0

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.stack([u[1], torch.full_like(u[1], -GRAVITY)])

    event = plr.Event(height, lambda t, u: -u, terminate=False)
    with torch.no_grad():
        solution = plr.NeuralODE(f, (0.0, 2.0), event=event, engine="torch")(start())
    assert len(solution.events) == 2
    assert solution.stats.nfe == calls


@engines
@pytest.mark.parametrize(
    "regularizer",
    [
        plr.LocalRegularizer("biased"),
        plr.LocalRegularizer("biased", importance="estimate"),
        plr.LocalRegularizer("unbiased", samples=2),
        plr.GlobalRegularizer(),
    ],
    ids=lambda r: str(getattr(r, "sampling", "global")) + str(getattr(r, "importance", "")),
)
def test_regularizers_over_pieces(engine: str, regularizer: Any) -> None:
    node = plr.NeuralODE(
        lambda t, u: torch.stack([u[1], -(u[0] ** 3)]),
        (0.0, 6.0),
        event=plr.Event(height, lambda t, u: 0.9 * u, terminate=False),
        regularizer=regularizer,
        engine=engine,
    )
    u0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    draws = []
    for seed in range(6):
        torch.manual_seed(seed)
        draws.append(node(u0).regularization)
    assert all(math.isfinite(float(value)) and float(value) > 0 for value in draws)
    torch.autograd.grad(draws[0] + node(u0).u.sum(), u0)
    if isinstance(regularizer, plr.GlobalRegularizer):  # R of the whole steps, those that events cut included
        solution = node(u0)
        bound = float((solution.steps.EEst * np.abs(solution.steps.dt)).sum())
        assert bound <= float(solution.regularization) < 2 * bound


def test_the_join_is_the_mean_over_all_steps() -> None:
    # with a draw for each step of a piece, the sample's mean over draws is that over all steps
    event = plr.Event(height, lambda t, u: 0.9 * u, terminate=False)
    node = plr.NeuralODE(
        lambda t, u: torch.stack([u[1], -(u[0] ** 3)]),
        (0.0, 6.0),
        event=event,
        regularizer=plr.LocalRegularizer("biased", scale="linear", samples=4000),
        engine="torch",
    )
    torch.manual_seed(0)
    with torch.no_grad():
        solution = node(torch.tensor([1.0, 0.0], dtype=F64))
        everything = plr.NeuralODE(
            node.dynamics,
            (0.0, 6.0),
            event=event,
            regularizer=plr.GlobalRegularizer(),
            engine="torch",
        )(torch.tensor([1.0, 0.0], dtype=F64))
    mean = float(everything.regularization) / everything.stats.naccept
    assert float(solution.regularization) == pytest.approx(mean, rel=0.05)


def test_states_of_parts_and_float32() -> None:
    event = plr.Event(
        lambda t, u: u["x"].sum(), lambda t, u: {"x": u["x"] + 1, "v": u["v"]}, terminate=False, direction=-1
    )
    node = plr.NeuralODE(
        lambda t, u: {"x": u["v"], "v": torch.zeros_like(u["v"])}, (0.0, 2.5), event=event, engine="torch"
    )
    solution = node({"x": torch.ones(1, 1), "v": -torch.ones(1, 1)})
    assert [round(float(one.t.detach()), 5) for one in solution.events] == [1.0, 2.0]
    assert solution.events[0].t.dtype == torch.float32
    assert solution.events[0].u["v"].shape == (1, 1)


@pytest.mark.parametrize("scalar", [np.float32, np.float64])
@pytest.mark.parametrize("root", [0.1, 1 / 3, 0.7654321, 1 - 1e-7])
@pytest.mark.parametrize(
    "shape", [lambda x: x, lambda x: math.copysign(abs(x) ** 5, x), lambda x: math.tanh(50 * x)]
)
def test_crossings_are_found_to_the_last_bit(
    scalar: Any, root: float, shape: Callable[[float], float]
) -> None:
    calls = 0

    def f(t: float) -> float:
        nonlocal calls
        calls += 1
        return shape(t - root)

    found = crossing(f, 0.0, 1.0, scalar)
    assert calls < 220
    assert f(found) <= 0
    assert f(float(np.nextafter(scalar(found), scalar(1.0)))) > 0 or f(found) == 0


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"condition": 3}, "not callable"),
        ({"condition": height, "affect": 3}, "not callable"),
        ({"condition": height, "terminate": False}, "does nothing"),
        ({"condition": height, "direction": 2}, "direction"),
        ({"condition": height, "interp_points": 0}, "interp_points"),
    ],
)
def test_events_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(plr.LocalRegError, match=message):
        plr.Event(**arguments)


def test_what_is_refused_at_construction() -> None:
    with pytest.raises(OptionError, match=r"plr\.Event"):
        plr.NeuralODE(Ball(), event=height, engine="torch")  # type: ignore[arg-type]
    for regularizer in (plr.STEER(0.1), plr.TayNODE(), plr.RNODE()):
        with pytest.raises(OptionError, match="with events"):
            plr.NeuralODE(Ball(), event=plr.Event(height), regularizer=regularizer, engine="torch")


def solve(condition: Any, affect: Any = None, **options: Any) -> plr.Solution:
    event = plr.Event(condition, affect, terminate=affect is None)
    solution: plr.Solution = plr.NeuralODE(Ball(), (0.0, 2.0), event=event, engine="torch", **options)(
        start()
    )
    return solution


def test_conditions_that_can_not_be_right() -> None:
    with pytest.raises(ShapeError, match="one element"):
        solve(lambda t, u: u)
    with pytest.raises(ShapeError, match="float"):
        solve(lambda t, u: 1.0)
    with pytest.raises(NonFiniteError, match="NaN"):
        solve(lambda t, u: torch.log(u[0] - 2))
    with pytest.raises(OptionError, match="no derivative"):
        solve(lambda t, u: u.detach()[0])
    with pytest.raises(NonFiniteError, match="rate 0"):
        solve(lambda t, u: torch.sign(u[0]))
    with torch.no_grad():
        assert len(solve(lambda t, u: torch.sign(u[0])).events) == 1


def test_affects_that_can_not_be_right() -> None:
    with pytest.raises(ShapeError, match="affect"):
        solve(height, lambda t, u: u[0])
    with pytest.raises(plr.errors.DtypeError, match="affect"):
        solve(height, lambda t, u: u.float())
    with pytest.raises(StepLimitError):
        solve(height, lambda t, u: torch.stack([u[0], -u[1]]), maxiters=3)
    with pytest.raises(OptionError, match="through_state"):
        solve(height, regularizer=plr.LocalRegularizer(through_state=True))


def test_vmap_is_refused() -> None:
    node = plr.NeuralODE(Ball(), event=plr.Event(height), engine="torch")
    with pytest.raises(OptionError, match="vmap"):
        torch.func.vmap(lambda u: node(u).u)(torch.ones(3, 2, dtype=F64))
