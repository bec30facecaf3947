"""Gradients of the solution: both adjoints against finite differences, plain autograd and each other."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pylocalreg as plr
from pylocalreg.engines.base import Trajectory
from pylocalreg.errors import DoubleBackwardError
from tests.conftest import Net, normal, replay, replay_at

F64 = torch.float64
ADJOINTS: tuple[plr.Adjoint, ...] = ("backsolve", "discrete", "gauss", "interpolating", "quadrature")
both = pytest.mark.parametrize("adjoint", ADJOINTS)
Grads = list[torch.Tensor | None]


def tight(f: Any, tspan: tuple[float, float] = (0.0, 1.0), **options: Any) -> plr.NeuralODE:
    defaults: dict[str, Any] = {"engine": "torch", "abstol": 1e-11, "reltol": 1e-11}
    return plr.NeuralODE(f, tspan, **(defaults | options))


def gradients(node: torch.nn.Module, u0: torch.Tensor, loss: Callable[[plr.Solution], torch.Tensor]) -> Grads:
    """By u0 and every parameter."""
    u0 = u0.detach().clone().requires_grad_()
    inputs = [u0, *node.parameters()]
    return list(torch.autograd.grad(loss(node(u0)), inputs, allow_unused=True))


def assert_close(a: Grads, b: Grads, rtol: float, atol: float = 0.0) -> None:
    """Every tensor of ``a`` is that of ``b`` to ``rtol`` of the largest element."""
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x is not None
        assert y is not None
        assert x.shape == y.shape
        scale = float(y.abs().max())
        assert scale > 0
        torch.testing.assert_close(x.double(), y.double(), rtol=0, atol=rtol * scale + atol)


# -- gradcheck -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, -0.5)])
def test_gradcheck_u0(adjoint: plr.Adjoint, tspan: tuple[float, float]) -> None:
    node = tight(Net(2), tspan, adjoint=adjoint)
    u0 = normal(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: node(u).u, (u0,), eps=1e-4, atol=1e-6, rtol=1e-5)


@both
def test_gradcheck_parameters(adjoint: plr.Adjoint) -> None:
    net = Net(2, 2)
    node = tight(net, adjoint=adjoint, saveat=[0.3, 1.0])
    u0 = normal(3, 2, seed=1)
    names = [name for name, _ in node.named_parameters()]

    def solve(*params: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for own, p in zip(node.parameters(), params, strict=True):
                own.copy_(p)
        by_name = dict(zip(names, params, strict=True))
        solution: plr.Solution = torch.func.functional_call(node, by_name, (u0,))
        u: torch.Tensor = solution.u
        return u

    params = tuple(p.detach().clone().requires_grad_() for p in node.parameters())
    assert torch.autograd.gradcheck(solve, params, eps=1e-4, atol=1e-6, rtol=1e-5)


@both
def test_gradcheck_closed_over(adjoint: plr.Adjoint) -> None:
    u0 = normal(2, 3, seed=1)

    def solve(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        u: torch.Tensor = tight(lambda t, u: torch.tanh(u @ w) + t * b, adjoint=adjoint, params=[w, b])(u0).u
        return u

    w, b = normal(3, 3, seed=2).requires_grad_(), normal(3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(solve, (w, b), eps=1e-4, atol=1e-6, rtol=1e-5)


@both
def test_closed_over_tensor_with_a_history(adjoint: plr.Adjoint) -> None:
    """u' = -exp(a) u, so that du/da = -exp(a) t u."""
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    rate = a.exp()
    u = tight(lambda t, u: -rate * u, adjoint=adjoint, params=[rate])(torch.ones(2, dtype=F64)).u
    u.sum().backward()
    r = float(a.detach().exp())
    assert a.grad is not None
    assert float(a.grad) == pytest.approx(-2 * r * float(torch.exp(torch.tensor(-r, dtype=F64))), rel=1e-8)


@both
@pytest.mark.filterwarnings("ignore:Using backward")  # torch's own advice against create_graph
def test_second_derivatives_are_the_discrete_adjoints_alone(adjoint: plr.Adjoint) -> None:
    """A graph of the gradient that nobody differentiates does not fail."""
    node = tight(Net(2), adjoint=adjoint, regularizer=plr.LocalRegularizer("biased"))
    u0 = normal(2, 2, seed=1).requires_grad_()
    wanted = [u0, *node.parameters()]
    solution = node(u0)
    for output in (solution.u.square().sum(), solution.regularization):
        right = torch.autograd.grad(output, wanted, retain_graph=True, allow_unused=True)
        first = torch.autograd.grad(output, wanted, create_graph=True, allow_unused=True)
        for one, other in zip(first, right, strict=True):
            other = torch.zeros_like(one) if other is None else other
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
        if adjoint == "discrete":
            torch.autograd.grad([x.sum() for x in first], wanted, retain_graph=True, allow_unused=True)
        else:
            with pytest.raises(DoubleBackwardError, match="local_error"):
                torch.autograd.grad([x.sum() for x in first], wanted, allow_unused=True)


# -- finite differences, for any problem ---------------------------------------------------------------

shapes = st.one_of(
    st.tuples(st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)),
)
spans = st.sampled_from([(0.0, 1.0), (0.0, 0.3), (-1.0, 0.5), (1.0, 0.0), (0.7, -0.4)])
fractions = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.77, 1.0]), unique=True, max_size=4).map(sorted)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    shape=shapes,
    tspan=spans,
    fractions=fractions,
    adjoint=st.sampled_from(ADJOINTS),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([F64, torch.float32]),
)
def test_against_finite_differences(
    shape: tuple[int, ...],
    tspan: tuple[float, float],
    fractions: list[float],
    adjoint: plr.Adjoint,
    seed: int,
    dtype: torch.dtype,
) -> None:
    """The directional derivative of a loss over all saved times, by u0 and parameters together."""
    saveat = [(1 - x) * tspan[0] + x * tspan[1] for x in fractions] or None
    node = tight(Net(shape[-1], seed=seed), tspan, adjoint=adjoint, saveat=saveat)
    u0 = normal(*shape, seed=seed + 1)
    direction = [normal(*x.shape, seed=seed + 2 + i) for i, x in enumerate([u0, *node.parameters()])]
    weight = normal(*node(u0).u.shape, seed=seed + 20)

    def loss(solution: plr.Solution) -> torch.Tensor:
        total: torch.Tensor = (
            solution.u * weight.to(solution.u.dtype)
        ).sum() + 0.5 * solution.u.square().sum()
        return total

    def moved(by: float) -> float:
        other = copy.deepcopy(node)
        with torch.no_grad():
            for p, d in zip(other.parameters(), direction[1:], strict=True):
                p.add_(d, alpha=by)
            return float(loss(other(u0 + by * direction[0])))

    near, far = (moved(by) - moved(-by) for by in (1e-3, 2e-3))
    numeric = (8 * near - far) / 12e-3
    if dtype == torch.float32:
        single = copy.deepcopy(node).float()
        single.abstol = single.reltol = 1e-6
        grads = gradients(single, u0.float(), loss)
        tolerance = 1e-3
    else:
        grads = gradients(node, u0, loss)
        tolerance = 1e-7
    terms = [(g.double() * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None]
    # saveat = [t0] alone: u0 is all that the loss depends on
    assert len(terms) == (1 if fractions == [0.0] else 5)
    size = float(sum(term.abs() for term in terms)) + 1.0
    assert float(sum(terms)) == pytest.approx(numeric, abs=tolerance * size)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    shape=shapes,
    tspan=spans,
    fractions=fractions,
    checkpoints=st.sampled_from([None, 1, 4]),
    seed=st.integers(0, 1000),
)
def test_the_adjoints_agree(
    shape: tuple[int, ...],
    tspan: tuple[float, float],
    fractions: list[float],
    checkpoints: int | None,
    seed: int,
) -> None:
    saveat = [tspan[0] + x * (tspan[1] - tspan[0]) for x in [*fractions, 0.9] if x < 0.9] + [tspan[1]]
    f = Net(shape[-1], seed=seed)
    u0 = normal(*shape, seed=seed)
    by_adjoint = {
        adjoint: gradients(
            tight(f, tspan, adjoint=adjoint, checkpoints=checkpoints, saveat=saveat),
            u0,
            lambda s: (s.u**2 * torch.arange(1, len(s.t) + 1).view(-1, *[1] * len(shape))).sum(),
        )
        for adjoint in ADJOINTS
    }
    for others in by_adjoint.values():
        assert_close(others, by_adjoint["discrete"], 1e-7)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("tspan", [(0.0, 2.0), (2.0, -1.0)])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 3)])
def test_discrete_is_exact_for_the_steps_taken(
    tolerance: float, tspan: tuple[float, float], shape: tuple[int, ...]
) -> None:
    f = Net(3)
    start, end = tspan
    saveat = [start, start + 0.123 * (end - start), start + 0.7 * (end - start), end]
    node = tight(f, tspan, abstol=tolerance, reltol=tolerance, saveat=saveat)
    u0 = normal(*shape, seed=5).requires_grad_()
    weights = normal(4, *shape, seed=6)
    solution = node(u0)
    inputs = [u0, *f.parameters()]
    steps = solution.steps
    states = torch.stack([u0, *(replay_at(f, u0, steps, t) for t in saveat[1:-1]), replay(f, u0, steps)[-1]])
    torch.testing.assert_close(solution.u, states, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad((solution.u * weights).sum(), inputs)
    plain = torch.autograd.grad((states * weights).sum(), inputs)
    assert_close(list(ours), list(plain), 1e-11)


def test_discrete_at_every_step_end() -> None:
    """A saved time that is a step's end belongs to the step before it."""
    f = Net(3)
    u0 = normal(2, 3, seed=5).requires_grad_()
    node = tight(f, abstol=1e-4, reltol=1e-4)
    steps = node(u0).steps
    ends = [*map(float, steps.t[1:]), 1.0]
    assert len(ends) > 3
    solution = node(u0, saveat=ends)
    states = torch.stack(replay(f, u0, steps)[1:])
    inputs = [u0, *f.parameters()]
    weights = normal(*states.shape, seed=6)
    ours = torch.autograd.grad((solution.u * weights).sum(), inputs)
    plain = torch.autograd.grad((states * weights).sum(), inputs)
    assert_close(list(ours), list(plain), 1e-11)


def test_backsolve_restarts_at_saved_states() -> None:
    # backwards the Lorenz system grows like exp(13.7 t): from the end alone nothing of the state is left
    def lorenz(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        x, y, z = u.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    def gradient(adjoint: plr.Adjoint) -> Grads:
        saveat = [0.4, 0.8, 1.2, 1.6, 2.0]
        node = plr.NeuralODE(lorenz, (0.0, 2.0), saveat=saveat, adjoint=adjoint, engine="torch")
        return gradients(node, torch.tensor([1.0, 0.0, 0.0], dtype=F64), lambda solution: solution.u.sum())

    assert_close(gradient("backsolve"), gradient("discrete"), 3e-4)


@both
def test_loss_on_some_of_the_saved_times(adjoint: plr.Adjoint) -> None:
    f = Net(3)
    u0 = normal(2, 3, seed=5)
    node = tight(f, adjoint=adjoint, saveat=[0.2, 0.4, 0.9])
    alone = tight(f, (0.0, 0.4), adjoint=adjoint)
    assert_close(
        gradients(node, u0, lambda s: s.u[1].square().sum()),
        gradients(alone, u0, lambda s: s.u.square().sum()),
        1e-7,
    )


@both
def test_linear_system(adjoint: plr.Adjoint) -> None:
    """u' = A u: du(1)/du0 = exp(A)."""
    a = normal(3, 3, seed=3)
    u0 = normal(3, seed=1)
    (grad,) = gradients(tight(lambda t, u: a @ u, adjoint=adjoint), u0, lambda s: s.u[1])
    assert grad is not None
    torch.testing.assert_close(grad, torch.linalg.matrix_exp(a)[1], rtol=1e-8, atol=1e-9)


@both
def test_float32_gradients(adjoint: plr.Adjoint) -> None:
    double = tight(Net(3), adjoint=adjoint)
    single = copy.deepcopy(double).float()
    single.abstol = single.reltol = 1e-6
    u0 = normal(4, 3, seed=1)
    ours = gradients(single, u0.float(), lambda s: s.u.square().sum())
    assert all(g is not None and g.dtype == torch.float32 for g in ours)
    assert_close(ours, gradients(double, u0, lambda s: s.u.square().sum()), 1e-4)


@both
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
def test_layer_description(adjoint: plr.Adjoint, tspan: tuple[float, float]) -> None:
    node = tight(
        plr.TimeDependent(plr.Dense(3, 5, "tanh"), plr.Dense(5, 3)),
        tspan,
        adjoint=adjoint,
        abstol=1e-9,
        reltol=1e-9,
    ).double()
    u0 = normal(4, 3, seed=1).requires_grad_()
    solution = node(u0)
    inputs = [u0, *node.parameters()]
    ours = torch.autograd.grad(solution.u.square().sum(), inputs)
    plain = torch.autograd.grad(replay(node.dynamics, u0, solution.steps)[-1].square().sum(), inputs)
    assert_close(list(ours), list(plain), 1e-10 if adjoint == "discrete" else 1e-6)


# -- which tensors get a gradient ----------------------------------------------------------------------


class TwoRates(torch.nn.Module):
    """u' = r u, and a parameter nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor([0.5, -1.0], dtype=F64))
        self.idle = torch.nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.rate * u


@both
def test_unused_parameter(adjoint: plr.Adjoint) -> None:
    f = TwoRates()
    tight(f, adjoint=adjoint)(torch.ones(2, dtype=F64)).u.sum().backward()
    torch.testing.assert_close(f.rate.grad, f.rate.detach().exp())
    assert f.idle.grad is None


@both
def test_parameter_that_wants_no_gradient(adjoint: plr.Adjoint) -> None:
    f = Net(2)
    u0 = normal(2, 2, seed=1)
    full = gradients(tight(f, adjoint=adjoint), u0, lambda s: s.u.square().sum())
    f.b1.requires_grad_(False)
    tight(f, adjoint=adjoint)(u0).u.square().sum().backward()
    assert f.b1.grad is None
    assert_close([f.w1.grad, f.w2.grad, f.c.grad], [full[1], full[3], full[4]], 1e-7)


@both
def test_only_u0_wants_a_gradient(adjoint: plr.Adjoint) -> None:
    f = Net(2).requires_grad_(False)
    u0 = normal(2, 2, seed=1).requires_grad_()
    solution = tight(f, adjoint=adjoint)(u0)
    ours = torch.autograd.grad(solution.u.square().sum(), [u0])
    plain = torch.autograd.grad(replay(f, u0, solution.steps)[-1].square().sum(), [u0])
    assert_close(list(ours), list(plain), 1e-8)


@both
def test_thawed_parameter_gets_its_gradient(adjoint: plr.Adjoint) -> None:
    node = tight(plr.Chain(plr.Dense(2, 2, "tanh")), adjoint=adjoint).double()
    u0 = normal(3, 2, seed=1).requires_grad_()
    expected = gradients(node, u0, lambda s: s.u.square().sum())
    for wants in (False, True):
        node.requires_grad_(wants)
        node.zero_grad()
        node(u0).u.square().sum().backward()
    p = node.get_parameter("dynamics.p")
    assert_close([p.grad], [expected[1]], 1e-10)


@both
def test_two_parameters_of_one_sum(adjoint: plr.Adjoint) -> None:
    """u' = p1 + p2 - u from 0: du(1)/dp = 1 - 1/e for each."""

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p1 = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=F64))
            self.p2 = torch.nn.Parameter(torch.tensor([0.5, -3.0], dtype=F64))

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return self.p1 + self.p2 - u

    f = Sum()
    tight(f, adjoint=adjoint)(torch.zeros(2, dtype=F64)).u.sum().backward()
    exact = 1 - torch.exp(torch.tensor([-1.0, -1.0], dtype=F64))
    torch.testing.assert_close(f.p1.grad, exact, rtol=1e-8, atol=0)
    torch.testing.assert_close(f.p2.grad, exact, rtol=1e-8, atol=0)


@both
def test_parameter_named_twice(adjoint: plr.Adjoint) -> None:
    """A module's own parameters may be passed in params= too, and one tensor twice: it counts once."""
    f = TwoRates()
    tight(f, adjoint=adjoint, params=[f.rate, f.rate])(torch.ones(2, dtype=F64)).u.sum().backward()
    torch.testing.assert_close(f.rate.grad, f.rate.detach().exp())


@both
def test_tied_parameters(adjoint: plr.Adjoint) -> None:
    f = Net(4)
    f.w2 = f.w1
    u0 = normal(2, 4, seed=1).requires_grad_()
    solution = tight(f, adjoint=adjoint)(u0)
    inputs = [u0, *f.parameters()]
    assert len(inputs) == 4
    ours = torch.autograd.grad(solution.u.square().sum(), inputs)
    plain = torch.autograd.grad(replay(f, u0, solution.steps)[-1].square().sum(), inputs)
    assert_close(list(ours), list(plain), 1e-8)


@both
def test_nested_modules(adjoint: plr.Adjoint) -> None:
    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleDict(
                {"a": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()), "b": torch.nn.Linear(4, 3)}
            )

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner["b"](self.inner["a"](u)) * torch.cos(t)
            return out

    torch.manual_seed(0)
    f = Field().double()
    node = tight(f, adjoint=adjoint)
    assert {name for name, _ in node.named_parameters()} == {f"dynamics.{n}" for n, _ in f.named_parameters()}
    u0 = normal(2, 3, seed=1).requires_grad_()
    solution = node(u0)
    inputs = [u0, *f.parameters()]
    ours = torch.autograd.grad(solution.u.square().sum(), inputs)
    plain = torch.autograd.grad(replay(f, u0, solution.steps)[-1].square().sum(), inputs)
    assert_close(list(ours), list(plain), 1e-8)


@both
def test_gradient_passes_through_u0(adjoint: plr.Adjoint) -> None:
    """Two solves one after the other, with layers between."""
    f = Net(2)
    node = tight(f, (0.0, 0.5), adjoint=adjoint)
    whole = tight(lambda t, u: f(0 * t, u), (0.0, 1.0), adjoint=adjoint, params=list(f.parameters()))
    half = tight(lambda t, u: f(0 * t, u), (0.0, 0.5), adjoint=adjoint, params=list(f.parameters()))
    u0 = normal(2, 2, seed=1).requires_grad_()
    inputs = [u0, f.w1, f.b1, f.w2]
    twice = torch.autograd.grad(half(half(u0).u).u.square().sum(), inputs)
    once = torch.autograd.grad(whole(u0).u.square().sum(), inputs)
    assert_close(list(twice), list(once), 1e-7)
    assert node(2 * u0[:, [1, 0]]).u.requires_grad


# -- what the dynamics may do --------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "f", [lambda t, u: u, lambda t, u: u.view(-1).view(u.shape), lambda t, u: u.detach().clone() * 0 + u]
)
def test_dynamics_that_return_their_input(adjoint: plr.Adjoint, f: Any) -> None:
    u0 = torch.tensor([1.0, -2.0], dtype=F64)
    node = tight(f, adjoint=adjoint, saveat=[0.5, 1.0])
    u = node(u0).u
    torch.testing.assert_close(u, torch.stack([u0 * torch.tensor(t, dtype=F64).exp() for t in (0.5, 1.0)]))
    (grad,) = gradients(node, u0, lambda s: s.u[1].sum())
    torch.testing.assert_close(grad, torch.ones(2, dtype=F64).exp())


@both
def test_dynamics_that_reuse_a_buffer(adjoint: plr.Adjoint) -> None:
    buffer = torch.empty(2, dtype=F64)

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -u if torch.is_grad_enabled() else torch.neg(u, out=buffer)

    u0 = torch.tensor([1.0, -2.0], dtype=F64)
    node = tight(f, adjoint=adjoint, saveat=[0.5, 1.0])
    fresh = tight(lambda t, u: -u, adjoint=adjoint, saveat=[0.5, 1.0])
    solution = node(u0, dense=True)
    torch.testing.assert_close(solution.u, fresh(u0).u, rtol=0, atol=0)
    torch.testing.assert_close(solution(0.77), fresh(u0, dense=True)(0.77), rtol=0, atol=0)
    assert solution.stats == fresh(u0).stats
    loss = lambda s: s.u.sum()  # noqa: E731
    assert_close(gradients(node, u0, loss), gradients(fresh, u0, loss), 1e-12)


@both
@pytest.mark.parametrize("expanded", [False, True])
def test_constant_dynamics(adjoint: plr.Adjoint, expanded: bool) -> None:
    speed = torch.tensor([2.0], dtype=F64) if expanded else torch.tensor([2.0, 2.0, 2.0], dtype=F64)
    node = tight(lambda t, u: speed.expand(u.shape), adjoint=adjoint)
    u0 = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    torch.testing.assert_close(node(u0).u, u0 + 2)
    torch.testing.assert_close(speed, torch.full_like(speed, 2.0))
    (grad,) = gradients(node, u0, lambda s: s.u.square().sum())
    torch.testing.assert_close(grad, 2 * (u0 + 2))


@both
def test_dynamics_of_time_and_a_parameter_alone(adjoint: plr.Adjoint) -> None:
    """u' = c cos t: du(1)/dc = sin 1."""
    c = torch.tensor([1.5, 0.5], dtype=F64, requires_grad=True)
    node = tight(lambda t, u: c * torch.cos(t), adjoint=adjoint, params=[c])
    u0 = torch.zeros(2, dtype=F64, requires_grad=True)
    node(u0).u.sum().backward()
    torch.testing.assert_close(c.grad, torch.ones(2, dtype=F64).sin())
    torch.testing.assert_close(u0.grad, torch.ones(2, dtype=F64))


@both
def test_dynamics_cut_off_from_u(adjoint: plr.Adjoint) -> None:
    """What f detaches has no gradient, as with plain autograd."""
    (grad,) = gradients(
        tight(lambda t, u: -u.detach(), adjoint=adjoint), torch.ones(2, dtype=F64), lambda s: s.u.sum()
    )
    torch.testing.assert_close(grad, torch.ones(2, dtype=F64))


# -- autograd manners ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("changed", ["parameter", "u0", "closed over"])
def test_change_in_place_before_backward(adjoint: plr.Adjoint, changed: str) -> None:
    f = Net(2)
    extra = torch.ones(2, dtype=F64, requires_grad=True)
    node = tight(f, adjoint=adjoint, params=[extra])
    u0 = normal(2, 2, seed=1).requires_grad_()
    loss = node(u0).u.sum()
    with torch.no_grad():
        {"parameter": f.w1, "u0": u0, "closed over": extra}[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@both
def test_gradients_accumulate(adjoint: plr.Adjoint) -> None:
    f = Net(2)
    node = tight(f, adjoint=adjoint)
    u0, v0 = normal(2, 2, seed=1), normal(2, 2, seed=2)
    first = gradients(node, u0, lambda s: s.u.square().sum())
    second = gradients(node, v0, lambda s: s.u.square().sum())
    a, b = node(u0).u, node(v0).u
    a.square().sum().backward()
    b.square().sum().backward()
    total = [cast(torch.Tensor, x) + cast(torch.Tensor, y) for x, y in zip(first, second, strict=True)]
    assert_close([p.grad for p in f.parameters()], list(total[1:]), 1e-12)


@both
def test_backward_twice_through_one_solve(adjoint: plr.Adjoint) -> None:
    f = Net(2)
    node = tight(f, adjoint=adjoint, saveat=[0.2, 1.0])
    u0 = normal(2, 2, seed=1)
    u = node(u0).u
    u[0].sum().backward(retain_graph=True)
    u[1].sum().backward()
    together = gradients(node, u0, lambda s: s.u.sum())
    assert_close([p.grad for p in f.parameters()], together[1:], 1e-7)
    with pytest.raises(RuntimeError, match="second time"):
        u[1].sum().backward()


@both
def test_no_graph_in_the_forward_solve(adjoint: plr.Adjoint) -> None:
    wants: list[bool] = []
    net = Net(2)

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(t, u)
            wants.append(out.requires_grad)
            return out

    solution = tight(Spy(), adjoint=adjoint)(normal(2, 2).requires_grad_())
    assert wants == [True] + [False] * (solution.stats.nfe - 1)  # the first shows what the dynamics reach
    assert solution.u.requires_grad
    before = len(wants)
    solution.u.sum().backward()
    assert all(wants[before:])
    assert len(wants) > before


def kept(node: plr.NeuralODE, u0: torch.Tensor, monkeypatch: pytest.MonkeyPatch, **call: Any) -> Trajectory:
    """The trajectory the engine gives."""
    seen: list[Trajectory] = []
    solve = node.engine.solve

    def spy(*args: Any) -> Trajectory:
        seen.append(solve(*args))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(node.engine, "solve", spy)
        node(u0, **call)
    return seen[0]


@both
def test_memory(adjoint: plr.Adjoint, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tight(Net(2), adjoint=adjoint, regularizer=plr.LocalRegularizer("biased"))
    u0 = normal(2, 2)
    with_gradient = kept(node, u0, monkeypatch)
    n = with_gradient.naccept
    assert n > 3
    assert len(with_gradient.u) == (2 if adjoint == "backsolve" else n + 1)
    assert len(with_gradient.k) == (0 if adjoint in ("backsolve", "discrete") else n)
    with torch.no_grad():
        without = kept(node, u0, monkeypatch)
    assert (without.naccept, len(without.u), without.k) == (n, 2, {})  # the sampled step's, and the end
    node.requires_grad_(False)
    frozen = kept(node, u0, monkeypatch)
    assert (frozen.naccept, len(frozen.u), frozen.k) == (n, 2, {})
    dense = kept(node, u0, monkeypatch, dense=True)
    assert (len(dense.u), len(dense.k)) == (n + 1, n)


@both
def test_no_grad_is_the_same_solve(adjoint: plr.Adjoint) -> None:
    """The memory that is written over, when nothing is kept, changes no digit."""
    node = tight(Net(3), adjoint=adjoint, saveat=[0.0, 0.31, 0.8, 1.0])
    u0 = normal(4, 3)
    wanted = node(u0)
    with torch.no_grad():
        plain = node(u0)
    with torch.inference_mode():
        inference = node(u0)
    for other in (plain, inference):
        torch.testing.assert_close(other.u, wanted.u.detach(), rtol=0, atol=0)
        assert not other.u.requires_grad
        assert other.stats == wanted.stats


@both
def test_training_after_inference_mode(adjoint: plr.Adjoint) -> None:
    node = tight(plr.TimeDependent(plr.Dense(2, 3, "tanh"), plr.Dense(3, 2)), adjoint=adjoint).double()
    u0 = normal(2, 2)
    expected = gradients(copy.deepcopy(node), u0, lambda s: s.u.square().sum())
    with torch.inference_mode():
        node(u0)
    assert_close(gradients(node, u0, lambda s: s.u.square().sum()), expected, 1e-12)


# -- copies --------------------------------------------------------------------------------------------


@both
def test_copies(adjoint: plr.Adjoint) -> None:
    torch.manual_seed(0)
    node = tight(
        plr.TimeDependent(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3)),
        adjoint=adjoint,
        regularizer=plr.LocalRegularizer("biased"),
    ).double()
    u0 = normal(2, 3)
    expected = gradients(node, u0, lambda s: s.u.square().sum())  # after it the module holds views of p
    other = tight(plr.TimeDependent(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3)), adjoint=adjoint).double()
    assert not torch.equal(other.get_parameter("dynamics.p"), node.get_parameter("dynamics.p"))
    other.load_state_dict(node.state_dict())
    for copied in (copy.deepcopy(node), pickle.loads(pickle.dumps(node)), other):
        assert_close(gradients(copied, u0, lambda s: s.u.square().sum()), expected, 1e-12)
        with torch.no_grad():
            copied.get_parameter("dynamics.p").zero_()
        torch.testing.assert_close(copied(u0).u, u0)
    assert_close(gradients(node, u0, lambda s: s.u.square().sum()), expected, 1e-12)


@pytest.mark.skipif(torch.__version__ < "2.3", reason="this torch copies no generator")
def test_copy_keeps_its_own_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    node = tight(Net(2), regularizer=plr.LocalRegularizer("biased", generator=generator))
    other = copy.deepcopy(node)
    u0 = normal(2, 2)
    draws = [node(u0).regularization.item() for _ in range(4)]
    assert [other(u0).regularization.item() for _ in range(4)] == draws
    assert len(set(draws)) > 1


def test_updates_are_seen() -> None:
    """The views of p that the dynamics hold follow every way of changing p."""
    node = tight(plr.Chain(plr.Dense(2, 2))).double()
    u0 = normal(3, 2)
    p = node.get_parameter("dynamics.p")

    def expect(value: float) -> None:
        plain = tight(
            lambda t, u: u.sum(-1, keepdim=True).expand(u.shape) * value + value, abstol=1e-11, reltol=1e-11
        )
        torch.testing.assert_close(node(u0).u.detach(), plain(u0).u, rtol=1e-8, atol=1e-8)

    with torch.no_grad():
        p.fill_(0.1)
    expect(0.1)
    p.data.fill_(0.2)
    expect(0.2)
    p.data = torch.full_like(p, 0.3)
    expect(0.3)
    node.float().double()
    node.load_state_dict({"dynamics.p": torch.full((6,), 0.4, dtype=F64)})
    expect(0.4)
    node(u0).u.sum().backward()
    torch.optim.SGD(node.parameters(), lr=0.0).step()
    expect(0.4)
