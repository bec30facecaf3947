"""Each Runge-Kutta method alone: its numbers, order, dense output, gradients and regularizers.

What the stack computes with the same methods is in test_parity.py.
"""

from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS, Tableau
from pylocalreg.regularizers import Sampling, Step
from pylocalreg.regularizers.base import draw
from tests.conftest import (
    Net,
    assert_close,
    drawn_step,
    gradients,
    inside,
    normal,
    replay,
    replay_at,
    step_containing,
    step_error,
    step_stages,
)
from tests.golden import estimate_rounding, problem

SAVEAT = (0.13, 0.71, 1.4)
INTERPOLANT_ORDER = {"BS3": 3, "DP5": 4, "Euler": 1, "RK4": 3, "Tsit5": 4, "Vern7": 7}
EMBEDDED = {name: tableau for name, tableau in TABLEAUS.items() if tableau.btilde}

each_tableau = pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
each_pair = pytest.mark.parametrize("tableau", EMBEDDED.values(), ids=EMBEDDED)


def make(tableau: Tableau, tol: float, **options: Any) -> plr.NeuralODE:
    dt = None if tableau.btilde else 0.03
    return plr.NeuralODE(
        Net(3), (0.0, 1.4), solver=tableau.name, abstol=tol, reltol=tol, dt=dt, engine="torch", **options
    )


@each_tableau
def test_numbers_are_consistent(tableau: Tableau) -> None:
    assert len(tableau.c) == len(tableau.a) == len(tableau.interpolant) - 1
    for i, (c, a) in enumerate(zip(tableau.c, tableau.a, strict=True)):
        assert len(a) == i + 1
        assert sum(a) == pytest.approx(c, abs=1e-13)
    assert sum(tableau.b) == pytest.approx(1, abs=1e-14)
    assert sum(tableau.btilde) == pytest.approx(0, abs=1e-14)
    assert len(tableau.b) <= tableau.stages <= len(tableau.interpolant)
    at_end = tableau.interpolant_weights(1.0)
    wanted = np.zeros(len(at_end))
    wanted[: len(tableau.b)] = tableau.b
    np.testing.assert_allclose(at_end, wanted, atol=2e-12)
    assert [coefficients[0] for coefficients in tableau.interpolant] == [1.0] + [0.0] * (len(at_end) - 1)


@each_tableau
@torch.no_grad()
def test_order_of_convergence(tableau: Tableau) -> None:
    """Global error of fixed steps, and local error of the dense output, both against Vern7's small steps."""
    f, u0, span = Net(3), normal(4, 3), 1.6

    def solve(method: Tableau, steps: int, end: float) -> torch.Tensor:
        u = u0
        for i in range(steps):
            u = step_stages(f, i * end / steps, u, end / steps, tableau=method)[1]
        return u

    exact = solve(TABLEAUS["Vern7"], 100, span)
    coarse, fine = ((solve(tableau, n, span) - exact).norm() for n in (12, 24))
    assert -0.3 < float(torch.log2(coarse / fine)) - tableau.order < 0.9  # from above as steps shrink

    errors = []
    for dt in (0.25, 0.125):
        exact = solve(TABLEAUS["Vern7"], 30, 0.4 * dt)
        errors.append((inside(f, 0.0, u0, dt, 0.4 * dt, tableau) - exact).norm())
    wanted = INTERPOLANT_ORDER[tableau.name] + 1
    assert -0.3 < float(torch.log2(errors[0] / errors[1])) - wanted < 0.7


@each_tableau
def test_discrete_gradient_is_that_of_the_steps_taken(tableau: Tableau) -> None:
    node = make(tableau, 1e-4, saveat=SAVEAT)
    u0, w = normal(4, 3).requires_grad_(), normal(3, 4, 3, seed=1)
    solution = node(u0)
    u = torch.stack([replay_at(node.dynamics, u0, solution.steps, t, tableau) for t in SAVEAT])
    torch.testing.assert_close(solution.u, u, rtol=1e-12, atol=1e-12)
    assert_close(gradients((w * solution.u).sum(), node, u0), gradients((w * u).sum(), node, u0), rtol=1e-11)


@each_pair
def test_adjoints_and_finite_differences_agree(tableau: Tableau) -> None:
    u0, w = normal(2, 3).requires_grad_(), normal(3, 2, 3, seed=1)
    tol = 1e-8 if tableau.name == "BS3" else 1e-10
    by_adjoint = []
    for adjoint in ADJOINTS:
        node = make(tableau, tol, saveat=SAVEAT, adjoint=adjoint)
        by_adjoint.append(gradients((w * node(u0).u).sum(), node, u0))
    for other in by_adjoint[1:]:
        assert_close(by_adjoint[0], other, rtol=1000 * tol)

    directions = [normal(*x.shape, seed=2 + i) for i, x in enumerate((u0, *node.parameters()))]
    ours = sum(float((g * d).sum()) for g, d in zip(by_adjoint[0], directions, strict=True))
    values, eps = [], 1e-4
    with torch.no_grad():
        for sign in (1, -1):
            moved = make(tableau, tol, saveat=SAVEAT)
            for p, d in zip(moved.parameters(), directions[1:], strict=True):
                p.add_(d, alpha=sign * eps)
            values.append(float((w * moved(u0 + sign * eps * directions[0]).u).sum()))
    assert ours == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-5)


@each_pair
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
def test_local_error(tableau: Tableau, gradient: Any) -> None:
    f, u = Net(3), normal(4, 3).requires_grad_()
    ours = plr.local_error(f, u, 0.2, 0.3, abstol=1e-4, reltol=1e-4, solver=tableau.name, gradient=gradient)
    theirs = step_error(f, 0.2, u, 0.3, 1e-4, 1e-4, gradient == "frozen", tableau)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    inputs = (u, *f.parameters())
    assert_close(
        list(torch.autograd.grad(ours, inputs)), list(torch.autograd.grad(theirs, inputs)), rtol=1e-8
    )


@each_pair
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("step", ["solver", "initial"])
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
def test_regularizers(tableau: Tableau, adjoint: str, sampling: Sampling, step: Step, gradient: Any) -> None:
    """Value and gradient of R, through the state too, with an interior time in the loss."""
    tol = 1e-4 if adjoint == "discrete" else 1e-8
    regularizer = plr.LocalRegularizer(
        sampling,
        step,
        gradient,
        through_state=True,
        generator=torch.Generator().manual_seed(3),
        scale="linear",
    )
    node = make(tableau, tol, saveat=SAVEAT, adjoint=adjoint, regularizer=regularizer)
    u0, w = normal(4, 3).requires_grad_(), normal(3, 4, 3, seed=1)
    solution = node(u0)
    value = solution.regularization
    assert value is not None

    f, steps = node.dynamics, solution.steps
    if sampling == "biased":
        i = drawn_step(steps, torch.Generator().manual_seed(3))
        tau, dt, u_tau = float(steps.t[i]), float(steps.dt[i]), replay(f, u0, steps, tableau)[i]
    else:
        tau = 1.4 * draw(torch.Generator().manual_seed(3))
        dt = float(steps.dt[step_containing(steps, tau)])
        u_tau = replay_at(f, u0, steps, tau, tableau)
    if step == "initial":
        dt, _ = node.engine.initial_step(problem(node), tau, u_tau.detach())
    dt = min(dt, 1.4 - tau)
    wanted = step_error(f, tau, u_tau, dt, tol, tol, gradient == "frozen", tableau)
    # EEst is the rest of a sum that nearly cancels: so much of it, and of its gradient, is rounding
    rounding = estimate_rounding(node, tau, u_tau.detach(), dt) / (float(wanted.detach()) / dt)
    torch.testing.assert_close(value, wanted, rtol=1e-9 + 10 * rounding, atol=0)
    u = torch.stack([replay_at(f, u0, steps, t, tableau) for t in SAVEAT])
    rtol = (1e-9 if adjoint == "discrete" else 1e-5) + 100 * rounding
    assert_close(
        gradients((w * solution.u).sum() + value, node, u0),
        gradients((w * u).sum() + wanted, node, u0),
        rtol=rtol,
    )


@each_tableau
@torch.no_grad()
def test_dense_output(tableau: Tableau) -> None:
    """A solution can be called at any time, costs the interpolant's own stages alone, and does not follow its
    parameters.
    """
    node, u0 = make(tableau, 1e-5), normal(4, 3)
    solution, plain = node(u0, dense=True), node(u0)
    saved = node(u0, saveat=SAVEAT)
    own, steps = len(tableau.interpolant_rows), plain.stats.naccept
    calls = plain.stats.nfe
    between = len(SAVEAT) - 1  # the last is the end, and no two lie in one step
    assert [calls + own * steps, calls + own * between] == [solution.stats.nfe, saved.stats.nfe]
    assert plain.stats == solution.stats._replace(nfe=calls) == saved.stats._replace(nfe=calls)
    for p in node.parameters():
        p.add_(1.0)
    for t, u in zip(SAVEAT, saved.u, strict=True):
        torch.testing.assert_close(solution(t), u, rtol=1e-12, atol=1e-12)
