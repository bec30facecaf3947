"""The accepted steps in one graph: values, first derivatives as the discrete adjoint's, and second ones."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pylocalreg.brownian import BrownianPath
from pylocalreg.engines import get_engine
from pylocalreg.engines.base import (
    Dynamics,
    Gradient,
    Jacobian,
    Keep,
    Problem,
    Quantity,
    StepAsked,
    StepCotangent,
    Trajectory,
)
from pylocalreg.engines.torch_engine.adjoints.retaken import retaken
from pylocalreg.engines.torch_engine.methods import METHODS, ODE_METHODS, SDE_METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.neural_sde import Noise
from tests.conftest import Net, assert_close, normal, replay, replay_at
from tests.sde import problem_of, sde

F64 = torch.float64
ENGINE = get_engine("torch")
ODE, SDE = tuple(ODE_METHODS), tuple(SDE_METHODS)
HAVING_ERROR = [name for name in METHODS if "error" in METHODS[name].estimates]
SPANS = [(0.0, 4.0), (2.0, -2.0)]
SHORT = [(0.0, 2.2), (1.2, -1.0)]
Tensors = Sequence[torch.Tensor]
FIXED = 0.5


def ode(
    solver: str,
    f: torch.nn.Module,
    tspan: tuple[float, float] = SHORT[0],
    tolerance: float = 1e-4,
    fixed: bool = False,
    jacobian: Jacobian = "system",
) -> Problem:
    adaptive = "error" in METHODS[solver].estimates and not fixed
    dt = None if adaptive else FIXED if tspan[1] > tspan[0] else -FIXED
    params = tuple(f.parameters())
    return Problem(f, params, tspan, solver, tolerance, tolerance, 10_000, dt, adaptive, jacobian)


def stochastic(
    solver: str, noise: Noise = "diagonal", shape: tuple[int, ...] = (2, 3), fixed: bool = False
) -> Problem:
    node = sde(solver, noise, width=shape[-1])
    of_path = (*shape[:-1], 1) if noise == "scalar" else shape
    path = BrownianPath(0.0, of_path, seed=3, dtype=F64)
    adaptive = "error" in METHODS[solver].estimates and not fixed
    problem = dataclasses.replace(problem_of(node, path), abstol=0.2, reltol=0.2, maxiters=10_000)
    return dataclasses.replace(problem, dt=None if adaptive else 0.2, adaptive=adaptive)


def solved(problem: Problem, u0: torch.Tensor, times: Sequence[float]) -> Trajectory:
    """With every estimate that the method has."""
    stiffness = "stiffness" in METHODS[problem.solver].estimates
    return ENGINE.solve(problem, u0.detach(), times, Keep("all", stiffness=stiffness))


def times_of(problem: Problem, u0: torch.Tensor) -> list[float]:
    """The start, twice, the ends of steps, places inside them, and the end, twice."""
    t = [*solved(problem, u0, []).t, problem.tspan[1]]
    assert len(t) > 4, t
    inside = [a + x * (b - a) for a, b, x in [(t[0], t[1], 0.3), (t[-3], t[-2], 0.9), (t[-2], t[-1], 0.5)]]
    return [t[0], t[0], inside[0], t[1], t[1], inside[1], t[-2], inside[2], inside[2], t[-1], t[-1]]


def asked_of(problem: Problem, trajectory: Trajectory) -> list[StepAsked]:
    """An estimate of every step, all kinds in turn."""
    estimates: list[Quantity] = sorted(METHODS[problem.solver].estimates)
    gradients: tuple[Gradient, Gradient] = ("exact", "frozen")
    kinds = list(product(estimates, gradients, (True, False)))
    return [StepAsked(i, *kinds[i % len(kinds)]) for i in range(trajectory.naccept if kinds else 0)]


def check_first_derivatives(problem: Problem, u0: torch.Tensor) -> None:
    """Values as recorded, gradients as pulled back, over enough steps for all kinds of estimates."""
    times = times_of(problem, u0)
    trajectory = solved(problem, u0, times)
    steps = asked_of(problem, trajectory)
    states, estimates = retaken(problem, trajectory, u0, times, steps)
    assert (len(states), len(estimates)) == (len(times), len(steps))
    for ours, recorded in zip(states, trajectory.outputs, strict=True):
        torch.testing.assert_close(ours.detach(), recorded, rtol=1e-12, atol=1e-13)
    for value, step in zip(estimates, steps, strict=True):
        recorded_value = trajectory.estimate(step.quantity, step.index)
        assert float(value.detach()) == pytest.approx(recorded_value, rel=1e-9, abs=1e-11)
    by_states = [normal(*u0.shape, seed=i) for i in range(len(states))]
    by_steps = list(normal(len(steps), seed=99))
    cotangents = [
        StepCotangent(s.index, g, s.quantity, s.gradient, s.through_state)
        for s, g in zip(steps, by_steps, strict=True)
    ]
    by_u0, by_params = ENGINE.pull_back(
        problem, trajectory, "discrete", list(zip(times, by_states, strict=True)), cotangents
    )
    # VCAB3's estimate with everything held depends on nothing
    depends = [
        (x, g) for x, g in zip((*states, *estimates), (*by_states, *by_steps), strict=True) if x.requires_grad
    ]
    gradients = torch.autograd.grad(
        [x for x, _ in depends], (u0, *problem.params), [g for _, g in depends], create_graph=True
    )
    theirs = [by_u0, *(g for g in by_params if g is not None)]
    # a stiff solve's Jacobian is by reverse mode, that of steps taken again by forward mode: they differ by
    # rounding, of which an estimate's gradient, a small rest of large terms, makes up to some 1e-9
    rtol = 1e-8 if problem.solver.startswith("Ro") else 1e-10
    assert_close([g.detach() for g in gradients], theirs, rtol)


def with_values(module: torch.nn.Module, values: Tensors) -> Dynamics:
    """The dynamics with other parameters."""
    named = dict(zip([name for name, _ in module.named_parameters()], values, strict=True))

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = torch.func.functional_call(module, named, (t, u))
        return k

    return f


def at_values(problem: Problem, params: Tensors) -> Problem:
    """The problem with other parameters: those of f, then those of g."""
    assert isinstance(problem.f, torch.nn.Module)
    count = len(list(problem.f.parameters()))
    g = None
    if problem.g is not None:
        assert isinstance(problem.g, torch.nn.Module)
        g = with_values(problem.g, params[count:])
    return dataclasses.replace(problem, f=with_values(problem.f, params[:count]), g=g, params=tuple(params))


def as_function(problem: Problem, u0: torch.Tensor) -> Callable[..., torch.Tensor]:
    """All states and all estimates that hold nothing, in one vector of (u0, *params), the steps as solved."""
    times = times_of(problem, u0)
    trajectory = solved(problem, u0, times)
    steps = [
        dataclasses.replace(step, gradient="exact", through_state=True)
        for step in asked_of(problem, trajectory)
    ]
    size = max((trajectory.estimate(step.quantity, step.index) for step in steps), default=1.0)

    def function(u0: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        states, estimates = retaken(at_values(problem, params), trajectory, u0, times, steps)
        return torch.cat([torch.stack(states).reshape(-1), *(value.reshape(1) / size for value in estimates)])

    return function


def leaves(problem: Problem, u0: torch.Tensor) -> list[torch.Tensor]:
    return [x.detach().clone().requires_grad_() for x in (u0, *problem.params)]


def differences(gradient: Callable[[float], Tensors], h: float = 1e-4) -> list[torch.Tensor]:
    """Of fourth order, at 0."""
    moved = (gradient(h), gradient(-h), gradient(2 * h), gradient(-2 * h))
    return [(8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in zip(*moved, strict=True)]


def check_second_derivatives(problem: Problem, u0: torch.Tensor) -> None:
    """A Hessian times a vector, against differences of the gradient."""
    function = as_function(problem, u0)
    inputs = leaves(problem, u0)
    weights = normal(len(function(*inputs)), seed=5)
    direction = [0.3 * normal(*x.shape, seed=i) for i, x in enumerate(inputs)]

    def gradient(by: float) -> tuple[torch.Tensor, ...]:
        moved = [(x + by * v).detach().requires_grad_() for x, v in zip(inputs, direction, strict=True)]
        y = function(*moved)
        return torch.autograd.grad((weights * (y + y.square())).sum(), moved)

    y = function(*inputs)
    first = torch.autograd.grad((weights * (y + y.square())).sum(), inputs, create_graph=True)
    product = torch.autograd.grad(first, inputs, direction)
    right = differences(gradient)
    size = max(float(x.abs().max()) for x in right)
    for ours, theirs in zip(product, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * size)


# -- every solver --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tspan", SPANS)
@pytest.mark.parametrize("solver", ODE)
def test_first_derivatives(solver: str, tspan: tuple[float, float]) -> None:
    tolerance = 1e-3 if solver in ("Rosenbrock23", "Rodas5P") else 1e-4
    problem = ode(solver, Net(3), tspan, tolerance)
    check_first_derivatives(problem, normal(2, 3, seed=1).requires_grad_())


@pytest.mark.parametrize("solver", [name for name in HAVING_ERROR if name in ODE])
def test_first_derivatives_of_fixed_steps(solver: str) -> None:
    check_first_derivatives(ode(solver, Net(3), fixed=True), normal(2, 3, seed=1).requires_grad_())


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("solver", SDE)
def test_first_derivatives_of_sdes(solver: str, noise: Noise) -> None:
    check_first_derivatives(stochastic(solver, noise), normal(2, 3, seed=1).requires_grad_())


@pytest.mark.parametrize("solver", ["Rosenbrock23", "Rodas5P"])
def test_jacobian_by_sample(solver: str) -> None:
    problem = ode(solver, Net(3), fixed=True, jacobian="per_sample")
    u0 = normal(2, 3, seed=1).requires_grad_()
    check_first_derivatives(problem, u0)
    check_second_derivatives(problem, u0)


@pytest.mark.parametrize("solver", ["VCAB3", "VCABM3"])
@pytest.mark.parametrize("dt", [0.6, 1.0])
def test_slopes_that_rejected_starts_left_behind(solver: str, dt: float) -> None:
    problem = dataclasses.replace(ode(solver, Net(3), tolerance=1e-5), dt=dt)
    u0 = normal(2, 3, seed=1).requires_grad_()
    trajectory = solved(problem, u0, [])
    history = trajectory.memory[0]
    assert isinstance(history, tuple)
    assert history  # of a rejected step at the start
    check_first_derivatives(problem, u0)
    check_second_derivatives(problem, u0)


@pytest.mark.parametrize("tspan", SHORT)
@pytest.mark.parametrize("solver", ODE)
def test_second_derivatives(solver: str, tspan: tuple[float, float]) -> None:
    problem = ode(solver, Net(2, 2), tspan, fixed=True)
    check_second_derivatives(problem, normal(2, 2, seed=1))


@pytest.mark.parametrize("solver", SDE)
def test_second_derivatives_of_sdes(solver: str) -> None:
    check_second_derivatives(stochastic(solver, shape=(2, 2), fixed=True), normal(2, 2, seed=1))


@pytest.mark.parametrize("solver", ["Tsit5", "VCABM3", "Rosenbrock23", "SOSRI2"])
def test_gradgradcheck(solver: str) -> None:
    of_sde = solver in SDE
    problem = stochastic(solver, shape=(2,), fixed=True) if of_sde else ode(solver, Net(2, 2), fixed=True)
    u0 = normal(2, seed=1)
    function, inputs = as_function(problem, u0), leaves(problem, u0)
    assert torch.autograd.gradgradcheck(function, inputs, eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True)


# -- what is held constant -----------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["exact", "frozen"])
@pytest.mark.parametrize("solver", [name for name in HAVING_ERROR if not name.startswith("VCAB")])
def test_a_held_state_is_constant_in_every_order(solver: str, gradient: Gradient) -> None:
    """The estimate is then that of one step from a given state."""
    of_sde = solver in SDE
    problem = stochastic(solver, fixed=True) if of_sde else ode(solver, Net(3), fixed=True)
    u0 = normal(2, 3, seed=1).requires_grad_()
    trajectory = solved(problem, u0, [])
    asked = [
        StepAsked(i, quantity, gradient, through_state=False)
        for i, quantity in product((1, 2), METHODS[solver].estimates)
    ]
    _, ours = retaken(problem, trajectory, u0, [], asked)
    theirs = [
        ENGINE.estimate(
            problem,
            s.quantity,
            trajectory.t[s.index],
            trajectory.u[s.index],
            trajectory.dt[s.index],
            gradient,
        )[0]
        for s in asked
    ]

    def derivatives(values: Tensors) -> Iterator[torch.Tensor]:
        for value in values:
            first = torch.autograd.grad(value, problem.params, create_graph=True)
            yield from (g.detach() for g in first)
            yield from torch.autograd.grad(sum((g.square().sum() for g in first), value * 0), problem.params)

    assert_close(list(derivatives(ours)), list(derivatives(theirs)), 1e-9)
    by_u0 = torch.autograd.grad(sum(ours, ours[0] * 0), u0, allow_unused=True)
    assert by_u0[0] is None


@pytest.mark.parametrize("solver", ["VCAB3", "VCABM3"])
def test_the_held_slopes_of_adams(solver: str) -> None:
    """By differences of the reverse sweep, which takes the state and the earlier slopes from the record."""
    problem = ode(solver, Net(2, 2), fixed=True)
    u0 = normal(2, 2, seed=1).requires_grad_()
    trajectory = solved(problem, u0, [])
    asked = StepAsked(3, "error", "exact", through_state=False)
    _, (value,) = retaken(problem, trajectory, u0, [], [asked])
    assert torch.autograd.grad(value, u0, retain_graph=True, allow_unused=True)[0] is None
    direction = [normal(*p.shape, seed=i) for i, p in enumerate(problem.params)]
    first = torch.autograd.grad(value, problem.params, create_graph=True)
    second = torch.autograd.grad(first, problem.params, direction)

    def gradient(by: float) -> list[torch.Tensor]:
        moved = [
            (p + by * v).detach().requires_grad_() for p, v in zip(problem.params, direction, strict=True)
        ]
        there = at_values(problem, moved)
        sweep = METHODS[solver].replay(RightHandSide.of(there), there, trajectory)
        one = torch.ones((), dtype=F64)
        with torch.no_grad():
            sweep.pull_back_estimate(
                StepCotangent(asked.index, one, "error", "exact", False), trajectory.u[asked.index]
            )
        return [g for g in sweep.grad_params.tensors if g is not None]

    assert_close([g.detach() for g in first], gradient(0.0), 1e-10)
    assert_close(list(second), differences(gradient), 1e-6)


# -- only what is asked for ----------------------------------------------------------------------------


def test_no_step_beyond_the_last_one_asked_for() -> None:
    calls = []
    net = Net(3)

    class Counted(torch.nn.Module):
        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            calls.append(float(t))
            k: torch.Tensor = net(t, u)
            return k

    problem = dataclasses.replace(ode("Tsit5", Counted(), tolerance=1e-6), params=tuple(net.parameters()))
    u0 = normal(2, 3, seed=1).requires_grad_()
    trajectory = solved(problem, u0, [])
    calls.clear()
    states, estimates = retaken(problem, trajectory, u0, [0.0, trajectory.t[2]], [])
    assert len(calls) == 1 + 2 * 6  # the last stage is the next step's first
    assert states[0] is u0
    assert estimates == []
    calls.clear()
    assert retaken(problem, trajectory, u0, [0.0, 0.0], []) == ([u0, u0], [])
    assert calls == []
    last = StepAsked(trajectory.naccept - 1, "error", "exact", True)
    first = StepAsked(0, "error", "exact", True)
    _, (a, b, c) = retaken(problem, trajectory, u0, [], [last, first, last])
    assert [float(x.detach()) for x in (a, b, c)] == pytest.approx(
        [trajectory.estimate("error", i) for i in (last.index, 0, last.index)], rel=1e-9
    )


def test_what_u0_depends_on() -> None:
    """u0 with a history: the gradient goes on through it, in second order too."""
    f = Net(2)
    problem = ode("Tsit5", f)
    a = torch.tensor(0.4, dtype=F64, requires_grad=True)
    start = normal(2, 2, seed=1)
    u0 = start * a.sin()
    trajectory = solved(problem, u0, [])
    (end,), _ = retaken(problem, trajectory, u0, [problem.tspan[1]], [])
    plain = replay(f, start * a.sin(), trajectory.steps())[-1]
    found = []
    for u in (end, plain):
        (first,) = torch.autograd.grad(u.square().sum(), a, create_graph=True)
        found.append((first.detach(), *torch.autograd.grad(first, (a, f.w1))))
    assert_close(list(found[0]), list(found[1]), 1e-11)


# -- any problem ---------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 4)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)),
    ),
    tspan=st.sampled_from([(0.0, 1.0), (0.0, 0.3), (-1.0, 0.5), (1.0, 0.0), (0.7, -0.4)]),
    fractions=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.77, 1.0]), min_size=1, max_size=5).map(sorted),
    solver=st.sampled_from(sorted(TABLEAUS)),
    seed=st.integers(0, 1000),
)
def test_a_hessian_times_a_vector_is_that_of_plain_autograd(
    shape: tuple[int, ...], tspan: tuple[float, float], fractions: list[float], solver: str, seed: int
) -> None:
    f = Net(shape[-1], seed=seed)
    problem = ode(solver, f, tspan, 1e-4)
    u0 = normal(*shape, seed=seed).requires_grad_()
    start, end = tspan
    times = [start if x == 0 else end if x == 1 else start + x * (end - start) for x in fractions]
    trajectory = solved(problem, u0, times)
    states, _ = retaken(problem, trajectory, u0, times, [])
    steps, tableau = trajectory.steps(), TABLEAUS[solver]
    plain = [
        u0
        if t == start
        else replay_at(f, u0, steps, t, tableau)
        if t != end
        else replay(f, u0, steps, tableau)[-1]
        for t in times
    ]
    inputs = (u0, *f.parameters())
    direction = [normal(*x.shape, seed=seed + i) for i, x in enumerate(inputs)]
    found = []
    for us in (states, plain):
        loss = sum(((i + 1) * u.pow(3).sum() for i, u in enumerate(us)), u0.sum() * 0)
        first = torch.autograd.grad(loss, inputs, create_graph=True, materialize_grads=True)
        along = sum(((g * d).sum() for g, d in zip(first, direction, strict=True)), u0.sum() * 0)
        second = torch.autograd.grad(along, inputs, materialize_grads=True)
        found.append([*(g.detach() for g in first), *second])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "VCABM3", "Rodas5P", "SOSRI2"])
def test_float32(solver: str) -> None:
    """As in float64 along the same steps, to rounding; times are those the loop rounded."""
    f = Net(3).float()
    if solver in SDE:
        node = sde(solver).float()
        path = BrownianPath(0.0, (2, 3), seed=3, dtype=torch.float32)
        problem = dataclasses.replace(problem_of(node, path), maxiters=10_000)
    else:
        problem = ode(solver, f, tolerance=1e-4)
    u0 = normal(2, 3, seed=1).float().requires_grad_()
    times = times_of(problem, u0)
    trajectory = solved(problem, u0, times)
    states, _ = retaken(problem, trajectory, u0, times, [])
    for ours, recorded in zip(states, trajectory.outputs, strict=True):
        assert ours.dtype == torch.float32
        bound = 3e-5 if solver == "Rodas5P" else 1e-6  # its Jacobian is another's, to rounding
        torch.testing.assert_close(ours.detach(), recorded, rtol=bound, atol=bound)
    cotangents = [normal(2, 3, seed=i).float() for i in range(len(times))]
    by_u0, _ = ENGINE.pull_back(
        problem, trajectory, "discrete", list(zip(times, cotangents, strict=True)), []
    )
    (ours_by_u0,) = torch.autograd.grad(states, [u0], cotangents, create_graph=True)
    torch.testing.assert_close(ours_by_u0.detach(), by_u0, rtol=1e-5, atol=1e-4)


# -- where a norm is zero ------------------------------------------------------------------------------


class Nothing(torch.nn.Module):
    """f = 0, with parameters, as of zero-initialised layers."""

    def __init__(self, width: int, hidden: bool) -> None:
        super().__init__()
        self.inner = torch.nn.Parameter(normal(width, width, seed=8)) if hidden else None
        self.outer = torch.nn.Parameter(torch.zeros(width, width, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return (u if self.inner is None else torch.tanh(u @ self.inner)) @ self.outer


@pytest.mark.parametrize(("start", "hidden"), [(0.0, False), (0.7, True)])
@pytest.mark.parametrize("solver", HAVING_ERROR)
def test_no_dynamics_no_estimate(solver: str, start: float, hidden: bool) -> None:
    """R, S and all their derivatives are 0."""
    f = Nothing(2, hidden)
    problem = dataclasses.replace(ode(solver, f, fixed=True), dt=0.6)
    if solver in SDE:
        g = Nothing(2, hidden)
        path = BrownianPath(0.0, (2, 2), seed=3, dtype=F64)
        problem = dataclasses.replace(problem, g=g, noise=path, params=(*f.parameters(), *g.parameters()))
    u0 = torch.full((2, 2), start, dtype=F64, requires_grad=True)
    trajectory = solved(problem, u0, [])
    gradients: tuple[Gradient, Gradient] = ("exact", "frozen")
    kinds = product(range(trajectory.naccept), METHODS[solver].estimates, gradients, (True, False))
    steps = [StepAsked(*kind) for kind in kinds]
    states, estimates = retaken(problem, trajectory, u0, [0.5, 1.0], steps)
    assert [float(x.detach()) for x in estimates] == [0.0] * len(steps)
    assert all(trajectory.estimate(s.quantity, s.index) == 0 for s in steps)
    inputs = (u0, *problem.params)
    total = sum(estimates, u0.sum() * 0)
    first = torch.autograd.grad(total, inputs, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(
        sum(((1 + g).pow(3).sum() for g in first), u0.sum() * 0),
        inputs,
        retain_graph=True,
        materialize_grads=True,
    )
    assert all(not g.any() for g in first)
    if solver != "RKMilCommute":  # its estimate has the square of a norm, which bends
        assert all(not g.any() for g in second)
    together = sum((u.square().sum() for u in states), total)
    first = torch.autograd.grad(together, inputs, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(
        sum((g.square().sum() for g in first), u0.sum() * 0), inputs, materialize_grads=True
    )
    assert all(torch.isfinite(g).all() for g in (*first, *second))


def test_the_bend_of_the_milstein_estimate_at_zero() -> None:
    """R = dt rms(dW)^3 rms(E2)^2 / 6 / abstol for u = 0 and f = 0: E2 grows with the diffusion's weights."""
    problem = stochastic("RKMilCommute", shape=(2,))
    problem = dataclasses.replace(problem, adaptive=False, dt=0.25)
    w = torch.zeros((), dtype=F64, requires_grad=True)

    def diffusion(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return w * torch.cos(u + 1)

    def drift(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(u)

    problem = dataclasses.replace(problem, f=drift, g=diffusion, params=(w,))
    u0 = torch.zeros(2, dtype=F64)
    trajectory = solved(problem, u0, [])
    step = StepAsked(0, "error", "exact", False)

    def gradient(at: float) -> torch.Tensor:
        with torch.no_grad():
            w.fill_(at)
        _, (value,) = retaken(problem, trajectory, u0, [], [step])
        (first,) = torch.autograd.grad(value, w, create_graph=True)
        return first

    h = 1e-4
    numeric = float((gradient(h) - gradient(-h)).detach()) / (2 * h)
    (second,) = torch.autograd.grad(gradient(0.0), w)
    assert numeric > 0
    assert float(second) == pytest.approx(numeric, rel=1e-5)
