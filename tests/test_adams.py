"""VCAB3 and VCABM3 alone: order, history, gradients. What the stack computes is in test_parity.py."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Keep
from pylocalreg.engines.torch_engine.adams.history import is_start
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError
from pylocalreg.solution import Steps
from tests.conftest import Net, drawn_step, normal, step_error, step_stages
from tests.golden import problem

SAVEAT = (0.13, 0.71, 1.4)
TOLERANCE = 1e-4
each = pytest.mark.parametrize("solver", ["VCAB3", "VCABM3"])
each_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS)


def make(solver: str, tol: float = TOLERANCE, **options: Any) -> plr.NeuralODE:
    own: dict[str, Any] = {"tspan": (0.0, 1.4), "engine": "torch"}
    return plr.NeuralODE(Net(3), solver=solver, abstol=tol, reltol=tol, **(own | options))


def gradients(loss: torch.Tensor, node: plr.NeuralODE, u0: torch.Tensor) -> list[torch.Tensor]:
    grads = torch.autograd.grad(loss, (u0, *node.parameters()), allow_unused=True)
    return [
        torch.zeros_like(x) if g is None else g for x, g in zip((u0, *node.parameters()), grads, strict=True)
    ]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], rtol: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * float(b.abs().max()) + 1e-14)


def weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Of each node's slope in the integral of the polynomial through the slopes."""
    found = []
    for i, node in enumerate(nodes):
        basis = np.polynomial.Polynomial.fromroots(nodes[:i] + nodes[i + 1 :])
        integral = (basis / basis(node)).integ()
        found.append(float(integral(end) - integral(start)))
    return found


def take(
    solver: str,
    f: torch.nn.Module,
    u: torch.Tensor,
    times: list[float],
    slopes: list[torch.Tensor],
    end: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The new state and its error, from the slopes at ``times``, the latest first."""

    def step(nodes: list[float], values: list[torch.Tensor]) -> torch.Tensor:
        integral = torch.zeros_like(u)
        for weight, k in zip(weights(nodes, times[0], end), values, strict=True):
            integral = integral + weight * k
        return u + integral

    predicted = step(times[:2], slopes[:2])
    if solver == "VCAB3":
        u_new = step(times, slopes)
        return u_new, u_new - predicted
    fp = f(u.new_tensor(end), predicted)
    u_new = step([end, *times[:2]], [fp, *slopes[:2]])
    return u_new, step([end, *times], [fp, *slopes]) - u_new


def plain(
    solver: str, f: torch.nn.Module, u0: torch.Tensor, steps: Steps, through: bool = True
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """States, slopes and error estimates of the accepted steps, by plain autograd and the integral of the
    polynomial through the slopes. No starting step may have been rejected. The estimates take the states
    before them as constants, unless ``through``.
    """
    states, slopes, estimates = [u0], [f(u0.new_tensor(steps.t[0]), u0)], []
    for n, (t, dt) in enumerate(zip(steps.t.tolist(), steps.dt.tolist(), strict=True)):
        u = states[-1]
        start = u if through else u.detach()
        if n < 2:
            estimates.append(step_error(f, t, start, dt, TOLERANCE, TOLERANCE, tableau=TABLEAUS["BS3"]))
            u_new = step_stages(f, t, u, dt, tableau=TABLEAUS["BS3"])[1]
        else:
            times, ks = steps.t[n - 2 : n + 1][::-1].tolist(), slopes[n - 2 : n + 1][::-1]
            u_new, _ = take(solver, f, u, times, ks, t + dt)
            known = ks if through else [f(u.new_tensor(t), start), *(k.detach() for k in ks[1:])]
            new, error = take(solver, f, start, times, known, t + dt)
            scale = TOLERANCE + torch.maximum(start.abs(), new.abs()) * TOLERANCE
            estimates.append((error / scale).square().mean().sqrt() * abs(dt))
        states.append(u_new)
        slopes.append(f(u0.new_tensor(t + dt), u_new))
    return states, slopes, estimates


def hermite(
    steps: Steps, states: list[torch.Tensor], slopes: list[torch.Tensor], time: float
) -> torch.Tensor:
    i = max(i for i, t in enumerate(steps.t) if (time - t) * steps.dt[0] > 0)
    dt = float(steps.dt[i])
    s = (time - float(steps.t[i])) / dt
    return (
        (1 + 2 * s) * (1 - s) ** 2 * states[i]
        + s * (1 - s) ** 2 * dt * slopes[i]
        + s**2 * (3 - 2 * s) * states[i + 1]
        + s**2 * (s - 1) * dt * slopes[i + 1]
    )


@each
@torch.no_grad()
def test_order_of_convergence(solver: str) -> None:
    """Of fixed steps, against small ones of Vern7."""
    u0 = normal(4, 3)
    exact = make("Vern7", 1e-12)(u0).u
    errors = [float((make(solver, dt=1.4 / n, adaptive=False)(u0).u - exact).norm()) for n in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(3, abs=0.35)


@each
@torch.no_grad()
def test_exact_for_quadratic_slopes(solver: str) -> None:
    node = plr.NeuralODE(
        lambda t, u: (3 * t**2 - t) * torch.ones_like(u), (0.0, 2.0), solver=solver, engine="torch"
    )
    torch.testing.assert_close(node(torch.zeros(2, dtype=torch.float64)).u, torch.full((2,), 6.0).double())


@each
@pytest.mark.parametrize("tspan", [(0.0, 1.4), (1.4, 0.0)])
def test_discrete_gradient_is_that_of_the_steps_taken(solver: str, tspan: tuple[float, float]) -> None:
    saveat = SAVEAT if tspan[1] > tspan[0] else (*SAVEAT[1::-1], 0.0)
    node = make(solver, tspan=tspan, saveat=saveat)
    u0, w = normal(4, 3).requires_grad_(), normal(3, 4, 3, seed=1)
    solution = node(u0)
    states, slopes, _ = plain(solver, node.dynamics, u0, solution.steps)
    u = torch.stack([hermite(solution.steps, states, slopes, t) for t in saveat])
    torch.testing.assert_close(solution.u, u, rtol=1e-10, atol=1e-10)
    assert_close(gradients((w * solution.u).sum(), node, u0), gradients((w * u).sum(), node, u0), 1e-10)


@each
@each_adjoint
def test_adjoints_against_those_of_vern7(solver: str, adjoint: plr.Adjoint) -> None:
    u0, w = normal(2, 3).requires_grad_(), normal(2, 2, 3, seed=1)
    tol = 1e-12 if solver == "VCABM3" else 1e-9
    node = make(solver, tol, tspan=(0.0, 0.4), saveat=(0.13, 0.4), adjoint=adjoint)
    grads = gradients((w * node(u0).u).sum(), node, u0)
    exact = make("Vern7", 1e-12, tspan=(0.0, 0.4), saveat=(0.13, 0.4))
    assert_close(grads, gradients((w * exact(u0).u).sum(), exact, u0), 1e-7)


@each
@pytest.mark.parametrize("through_state", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_local_regularizer(solver: str, through_state: bool, seed: int) -> None:
    u0 = normal(4, 3).requires_grad_()
    regularizer = plr.LocalRegularizer("biased", through_state=through_state, scale="linear")
    node = make(solver, regularizer=regularizer, saveat=SAVEAT)
    torch.manual_seed(seed)
    solution = node(u0)
    torch.manual_seed(seed)
    i = drawn_step(solution.steps)
    wanted = plain(solver, node.dynamics, u0, solution.steps, through_state)[2][i]
    value = solution.regularization
    assert value is not None
    torch.testing.assert_close(value, wanted, rtol=1e-7, atol=0)
    plain_gradients = gradients(wanted, node, u0)
    assert_close(gradients(value, node, u0), plain_gradients, 1e-6)
    # beside a loss: the sum of both gradients
    torch.manual_seed(seed)
    solution = node(u0)
    assert solution.regularization is not None
    both = gradients(solution.u.square().sum() + 10 * solution.regularization, node, u0)
    alone = gradients(node(u0).u.square().sum(), node, u0)
    parts = [a + 10 * b for a, b in zip(alone, plain_gradients, strict=True)]
    assert_close(both, parts, 1e-6)


@each
def test_global_regularizer(solver: str) -> None:
    u0 = normal(4, 3).requires_grad_()
    node = make(solver, regularizer=plr.GlobalRegularizer())
    solution = node(u0)
    wanted = torch.stack(plain(solver, node.dynamics, u0, solution.steps)[2]).sum()
    assert solution.regularization is not None
    torch.testing.assert_close(solution.regularization, wanted, rtol=1e-7, atol=0)
    assert_close(gradients(solution.regularization, node, u0), gradients(wanted, node, u0), 1e-6)


@each
@pytest.mark.parametrize("adjoint", ["interpolating", "backsolve"])
def test_through_state_with_a_continuous_adjoint(solver: str, adjoint: plr.Adjoint) -> None:
    """The earlier slopes are functions of earlier states. What each state gets is a hundred times what is
    left of their sum, so that the digits of the adjoint equation are few.
    """
    u0, tol = normal(2, 3).requires_grad_(), 1e-7

    def gradient(adjoint: plr.Adjoint) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        regularizer = plr.LocalRegularizer("biased", through_state=True, generator=generator)
        node = make(solver, tol, tspan=(0.0, 0.3), adjoint=adjoint, regularizer=regularizer)
        value = node(u0).regularization
        assert value is not None
        return gradients(value, node, u0)

    assert_close(gradient(adjoint), gradient("discrete"), 5e-2)


@each
def test_a_rejected_start_stays_in_the_history(solver: str) -> None:
    """The stack does not take it back; discrete gradients are those of the steps taken all the same."""
    node = make(solver, dt=1.0, saveat=[0.9, 1.4])
    u0 = normal(2, 3).requires_grad_()
    trajectory = node.engine.solve(problem(node), u0.detach(), [1.4], Keep("all"))
    assert trajectory.nreject > 1
    history = trajectory.memory[0]
    assert isinstance(history, tuple)
    assert [slope.t for slope in history] == [0.0, 0.0]  # two rejected starts: Adams from the first step on

    w = normal(2, 2, 3, seed=1)
    grads = gradients((w * node(u0).u).sum(), node, u0)
    steps = node(u0).steps
    directions = [normal(*x.shape, seed=5 + i) for i, x in enumerate((u0, *node.parameters()))]

    def along(by: float) -> float:
        """The loss of the same steps from moved inputs, by the engine's own step, one at a time."""
        with torch.no_grad():
            for p, d in zip(node.parameters(), directions[1:], strict=True):
                p.add_(d, alpha=by)
        asked = problem(node)
        replayed = node.engine.solve(
            dataclasses.replace(asked, adaptive=True), u0.detach() + by * directions[0], [0.9, 1.4], Keep()
        )
        with torch.no_grad():
            for p, d in zip(node.parameters(), directions[1:], strict=True):
                p.sub_(d, alpha=by)
        np.testing.assert_allclose(replayed.dt, steps.dt, rtol=1e-4)
        return float((w * torch.stack(replayed.outputs)).sum())

    numeric = (along(1e-6) - along(-1e-6)) / 2e-6
    ours = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    # dt moves with the inputs too, and what that moves is of the size of the error
    assert ours == pytest.approx(numeric, rel=2e-3)


@each
@torch.no_grad()
def test_rejections_later_leave_the_history_alone(solver: str) -> None:
    """A front that comes late: rejected steps, and still the right answer."""

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -u + 40 * torch.exp(-((20 * (t - 1)) ** 2))

    options: dict[str, Any] = {"tspan": (0.0, 2.0), "engine": "torch"}
    u0 = torch.ones(2, dtype=torch.float64)
    solution = plr.NeuralODE(f, solver=solver, abstol=1e-6, reltol=1e-6, **options)(u0)
    exact = plr.NeuralODE(f, solver="Vern7", abstol=1e-11, reltol=1e-11, dt=0.01, **options)(u0)
    assert solution.stats.nreject > 0
    torch.testing.assert_close(solution.u, exact.u, rtol=1e-4, atol=1e-5)


@each
def test_kept_history_is_not_written_over(solver: str) -> None:
    node = make(solver)
    with torch.no_grad():
        trajectory = node.engine.solve(problem(node), normal(4, 3), [1.4], Keep("all"))
        for i, history in trajectory.memory.items():
            assert isinstance(history, tuple)
            assert is_start(history) == (i < 2)
            for back, slope in enumerate(history, start=1):
                assert slope.t == trajectory.t[i - back]
                torch.testing.assert_close(slope.u, trajectory.u[i - back], rtol=0, atol=0)
                torch.testing.assert_close(
                    slope.k, node.dynamics(slope.u.new_tensor(slope.t), slope.u), rtol=1e-13, atol=1e-13
                )


@each
@torch.no_grad()
def test_dense_output(solver: str) -> None:
    node, u0 = make(solver), normal(4, 3)
    solution, saved = node(u0, dense=True), node(u0, saveat=SAVEAT)
    assert solution.stats == saved.stats == node(u0).stats
    for t, u in zip(SAVEAT, saved.u, strict=True):
        torch.testing.assert_close(solution(t), u, rtol=1e-12, atol=1e-12)


@each
def test_one_step_alone_is_the_starting_one(solver: str) -> None:
    f, u = Net(3), normal(4, 3)
    ours, start = (plr.local_error(f, u, 0.2, 0.3, solver=name) for name in (solver, "BS3"))
    assert torch.equal(ours, start)


@each
def test_checkpoints_are_refused_by_name(solver: str) -> None:
    with pytest.raises(OptionError, match=solver):
        make(solver, checkpoints=3)
    make(solver, checkpoints=3, adjoint="backsolve")
