"""What the other tests of solvers let pass: the next step's size, the landing on the end, weights, kinks."""

import math

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Gradient
from tests.conftest import assert_close, normal
from tests.sde import ADAPTIVE, problem_of, sde, taken_again

ORDER = {"SOSRI": 1.5, "SOSRI2": 1.5, "SRIW1": 1.5, "RKMilCommute": 1.0, "LambaEulerHeun": 0.5}
"""The strong orders, of which StochasticDiffEq makes the controller's exponents 7/10 and 2/5."""


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize("seed", range(3))
def test_the_steps_of_an_sde_follow_the_stacks_controller(solver: str, seed: int) -> None:
    """dt / q with q = EEst^(7/10k) / EEst_before^(2/5k) / 0.9, where EEst_before is 1e-4 or more; a step
    grows to 9/8 at most, the one after the first excepted, and shrinks to 1/5 at most. Written here with the
    exact power, of which the stack's differs by 1e-5.
    """
    node = sde(solver, abstol=0.1, reltol=0.1, dt=1e-3, generator=torch.Generator().manual_seed(seed))
    solution = node(normal(4, 3, seed=seed))
    steps = solution.steps
    assert solution.stats.nreject == 0
    beta1, beta2 = 7 / (10 * ORDER[solver]), 2 / (5 * ORDER[solver])
    before, bound = 1e-4, 0
    for i, EEst in enumerate(steps.EEst[:-1]):
        q = EEst**beta1 / before**beta2 / 0.9
        q = min(max(q, 1e-4 if i == 0 else 8 / 9), 5.0)
        before = max(EEst, 1e-4)
        bound += i > 0 and q == 8 / 9
        wanted = steps.dt[i] / q
        if i + 2 == len(steps.t):
            assert steps.dt[-1] <= wanted * (1 + 1e-4)  # cut at the end of the span
        else:
            assert steps.dt[i + 1] == pytest.approx(wanted, rel=1e-4)
    assert bound >= 2
    growth = steps.dt[2:] / steps.dt[1:-1]
    assert growth.max() <= 9 / 8 + 1e-12


def test_a_step_without_error_grows_tenfold_and_the_first_ten_thousandfold() -> None:
    node = plr.NeuralODE(lambda t, u: 0 * u, dt=1e-9, engine="torch")
    steps = node(torch.zeros(1, dtype=torch.float64)).steps
    assert steps.EEst.max() == 0
    growth = steps.dt[1:-1] / steps.dt[:-2]
    assert growth == pytest.approx([1e4, *[10.0] * (len(growth) - 1)], rel=1e-9)
    assert len(growth) > 3


def test_a_regularizing_step_ends_with_the_span() -> None:
    """At a time in the last step the size is what is left of the span, where that is less."""

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * t) - u**3

    u0, cut = normal(3), 0
    for seed in range(30):
        tau = float(torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        regularizer = plr.LocalRegularizer("unbiased", generator=generator, scale="linear")
        node = plr.NeuralODE(f, abstol=1e-3, reltol=1e-3, regularizer=regularizer, engine="torch")
        solution = node(u0, dense=True)
        steps = solution.steps
        dt = float(steps.dt[np.searchsorted(steps.t, tau, side="right") - 1])
        cut += dt > 1 - tau
        expected = plr.local_error(f, solution(tau), tau, min(dt, 1 - tau), abstol=1e-3, reltol=1e-3)
        assert float(solution.regularization) == pytest.approx(float(expected), rel=1e-9)
    assert cut > 3


@pytest.mark.parametrize("gradient", ["exact", "frozen"])
def test_the_gradient_of_an_sdes_recorded_step(gradient: Gradient) -> None:
    """Of the step that was drawn, beside that of the estimate alone, with the first stage held or not."""
    regularizer = plr.LocalRegularizer(
        "biased", gradient=gradient, generator=torch.Generator().manual_seed(1), scale="linear"
    )
    node = sde("SOSRI2", regularizer=regularizer, generator=torch.Generator().manual_seed(0))
    u0 = normal(4, 3)
    solution = node(u0)
    assert solution.regularization is not None
    ours = torch.autograd.grad(solution.regularization, list(node.parameters()))
    states, values = taken_again(node, u0, solution)
    index = int(np.abs(np.array(values) - float(solution.regularization.detach())).argmin())
    value, _ = get_engine("torch").estimate(
        problem_of(node, solution.noise),
        "error",
        float(solution.steps.t[index]),
        states[index],
        float(solution.steps.dt[index]),
        gradient,
    )
    assert_close(list(ours), list(torch.autograd.grad(value, list(node.parameters()))), 1e-9)


@pytest.mark.parametrize(("short", "steps"), [(2e-15, 10), (1e-13, 11)])
def test_a_step_lands_on_an_end_within_a_hundred_roundings(short: float, steps: int) -> None:
    """Ten steps to 1 - ``short``: nine roundings away the last one lands, 450 away there is one more."""
    node = plr.NeuralODE(lambda t, u: u, solver="Euler", dt=(1 - short) / 10, engine="torch")
    solution = node(torch.ones(1, dtype=torch.float64))
    assert solution.stats.naccept == steps
    assert solution.steps.dt.min() > (0.09 if steps == 10 else 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_uniform_importance_weighs_a_step_with_the_number_of_all(seed: int) -> None:
    """n times the one that is drawn, so that its mean is the sum over all of them."""
    regularizer = plr.LocalRegularizer(
        "biased", importance="uniform", generator=torch.Generator().manual_seed(seed)
    )
    node = plr.NeuralODE(lambda t, u: torch.sin(5 * t) - u**3, regularizer=regularizer, engine="torch")
    solution = node(normal(3, seed=seed))
    assert solution.regularization is not None
    each = solution.steps.EEst * solution.steps.dt
    assert len(each) > 3
    ratios = float(solution.regularization) / each
    assert np.abs(ratios - len(each)).min() < 1e-9


def test_quadrature_sees_what_crowds_the_forward_steps_alone() -> None:
    """d/dp of the integral of p bump(t), narrow between the nodes of one rule over the whole span. The
    adjoint is constant, so that its own steps tell nothing of the bump.
    """

    class Bump(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            bump = torch.exp(-(((t - 0.35) / 0.004) ** 2))
            return self.p * bump + torch.cos(400 * t) + 0 * u

    dynamics = Bump()
    node = plr.NeuralODE(dynamics, adjoint="quadrature", abstol=1e-8, reltol=1e-8, engine="torch")
    solution = node(torch.zeros(1, dtype=torch.float64))
    solution.u.sum().backward()
    assert dynamics.p.grad is not None
    assert float(dynamics.p.grad) == pytest.approx(0.004 * math.sqrt(math.pi), rel=1e-6)
