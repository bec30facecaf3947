"""Regularizers of SDEs: which step, with which noise, and where the gradient flows."""

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Gradient
from pylocalreg.engines.torch_engine.methods import SDE_METHODS
from pylocalreg.regularizers.local import Noise
from tests.conftest import normal
from tests.sde import ADAPTIVE, at, problem_of, sde, taken_again

U0 = normal(4, 3)


def estimate(
    node: plr.NeuralSDE, path: plr.BrownianPath, t: float, u: torch.Tensor, dt: float, gradient: Gradient
) -> torch.Tensor:
    """R of a new step, by autograd."""
    return node.engine.estimate(problem_of(node, path), "error", t, u, dt, gradient)[0]


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_biased_takes_a_recorded_step(solver: str) -> None:
    torch.manual_seed(0)
    node = sde(solver, regularizer=plr.LocalRegularizer("biased", scale="linear"))
    solution = node(U0)
    assert solution.regularization is not None
    assert (solution.stats.nfe_regularizer, solution.stats.nfe_diffusion_regularizer) == (0, 0)
    recorded = solution.steps.EEst * solution.steps.dt
    i = int(np.abs(recorded - float(solution.regularization.detach())).argmin())
    assert float(solution.regularization.detach()) == pytest.approx(recorded[i], rel=1e-10)
    states, _ = taken_again(node, U0, solution)
    assert solution.noise is not None
    steps = solution.steps
    right = estimate(node, solution.noise, float(steps.t[i]), states[i], float(steps.dt[i]), "exact")
    params = list(node.parameters())
    ours = torch.autograd.grad(solution.regularization, params)
    theirs = torch.autograd.grad(right, params)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("gradient", ["exact", "frozen"])
@pytest.mark.parametrize("noise", [None, "recorded", "fresh"])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_unbiased_takes_a_new_step(solver: str, noise: Noise | None, gradient: Gradient) -> None:
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    regularizer = plr.LocalRegularizer(gradient=gradient, noise=noise, generator=generator, scale="linear")
    node = sde(solver, regularizer=regularizer)
    solution = node(U0)
    value = solution.regularization
    assert value is not None
    tableau = SDE_METHODS[solver].tableau  # type: ignore[attr-defined]
    assert solution.stats.nfe_regularizer == len(tableau.drift)
    assert solution.stats.nfe_diffusion_regularizer == len(tableau.diffusion)

    again = torch.Generator().manual_seed(2)
    tau = float(torch.rand((), generator=again, dtype=torch.float64))
    states, _ = taken_again(node, U0, solution)
    i = max(j for j, t in enumerate(solution.steps.t) if j == 0 or t < tau)
    dt = min(float(solution.steps.dt[i]), 1.0 - tau)
    path = solution.noise
    assert path is not None
    if noise != "recorded":
        path = path.independent(int(torch.randint(2**62, (), generator=again)))
    right = estimate(node, path, tau, at(states, solution, tau), dt, gradient)
    torch.testing.assert_close(value, right, rtol=1e-10, atol=0)
    params = list(node.parameters())
    ours, theirs = (torch.autograd.grad(x, params, allow_unused=True) for x in (value, right))
    for a, b in zip(ours, theirs, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_biased_with_fresh_noise_is_another_estimate_of_a_recorded_step() -> None:
    torch.manual_seed(3)
    node = sde("SOSRI2", regularizer=plr.LocalRegularizer("biased", noise="fresh", step="solver"))
    solution = node(U0)
    assert solution.regularization is not None
    recorded = solution.steps.EEst * solution.steps.dt
    assert np.abs(recorded / float(solution.regularization.detach()) - 1).min() > 1e-6
    assert (solution.stats.nfe_regularizer, solution.stats.nfe_diffusion_regularizer) == (4, 4)


def test_through_the_state_and_its_path() -> None:
    u0 = U0.clone().requires_grad_()
    for sampling in ("unbiased", "biased"):
        torch.manual_seed(4)
        through = sde("SOSRI2", regularizer=plr.LocalRegularizer(sampling, through_state=True))(u0)  # type: ignore[arg-type]
        held = sde("SOSRI2", regularizer=plr.LocalRegularizer(sampling))(u0)  # type: ignore[arg-type]
        (by_u0,) = torch.autograd.grad(through.regularization, u0)
        assert float(by_u0.abs().max()) > 0
        (none,) = torch.autograd.grad(held.regularization, u0, allow_unused=True)
        assert none is None or float(none.abs().max()) == 0


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_global_error_is_the_sum_over_the_steps(solver: str) -> None:
    torch.manual_seed(5)
    solution = sde(solver, regularizer=plr.GlobalRegularizer())(U0)
    assert solution.regularization is not None
    total = float((solution.steps.EEst * solution.steps.dt).sum())
    assert float(solution.regularization.detach()) == pytest.approx(total, rel=1e-12)


def test_global_stiffness_of_sosri2() -> None:
    """rms(k4 - k3) / rms(H4 - H3), as the stack's stiffness detection takes it."""
    torch.manual_seed(6)
    node = sde("SOSRI2", regularizer=plr.GlobalRegularizer("stiffness"))
    solution = node(U0)
    assert solution.regularization is not None
    assert solution.noise is not None
    states, _ = taken_again(node, U0, solution)
    problem = problem_of(node, solution.noise)
    total = torch.zeros((), dtype=torch.float64)
    for t, dt, u in zip(solution.steps.t, solution.steps.dt, states, strict=False):
        total = total + node.engine.estimate(problem, "stiffness", float(t), u, float(dt), "exact")[0]
    torch.testing.assert_close(solution.regularization, total, rtol=1e-8, atol=0)
    local = sde("SOSRI2", regularizer=plr.LocalRegularizer("biased", quantity="stiffness"))(U0)
    params = list(node.parameters())
    gradients = torch.autograd.grad(solution.regularization, params)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert local.regularization is not None


def test_stiffness_gradient_by_finite_differences() -> None:
    torch.manual_seed(7)
    node = sde("SOSRI2", regularizer=plr.LocalRegularizer("biased", quantity="stiffness"))
    solution = node(U0)
    assert solution.noise is not None
    params = list(node.parameters())
    ours = torch.autograd.grad(solution.regularization, params)
    states, _ = taken_again(node, U0, solution)
    problem, steps = problem_of(node, solution.noise), solution.steps

    def value(i: int) -> torch.Tensor:
        return node.engine.estimate(
            problem, "stiffness", float(steps.t[i]), states[i], float(steps.dt[i]), "exact"
        )[0]

    of_each = [float(value(i).detach()) for i in range(len(steps.t))]
    i = int(np.abs(np.array(of_each) - float(solution.regularization.detach())).argmin())
    for a, b in zip(ours, torch.autograd.grad(value(i), params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_weighted_samples_estimate_the_global_sum() -> None:
    torch.manual_seed(8)
    node = sde("SRIW1", regularizer=plr.LocalRegularizer("biased", samples=2, importance="estimate"))
    solution = node(U0)
    total = float((solution.steps.EEst * solution.steps.dt).sum())
    assert solution.regularization is not None
    assert float(solution.regularization.detach()) == pytest.approx(total, rel=1e-10)


def test_steer_ends_at_a_random_time() -> None:
    torch.manual_seed(9)
    solution = sde("SOSRI2", regularizer=plr.STEER(0.3))(U0)
    assert 0.7 < solution.t[0] < 1.3
    assert solution.t[0] != 1.0


@pytest.mark.parametrize(
    ("regularizer", "solver", "message"),
    [
        (plr.GlobalRegularizer("stiffness"), "SOSRI", "no stiffness estimate"),
        (plr.GlobalRegularizer(), "EM", "no error estimate"),
        (plr.TayNODE(), "SOSRI2", "no derivatives"),
        (plr.RNODE(), "SOSRI2", "no velocity"),
    ],
)
def test_what_a_method_has_not_is_refused_by_name(
    regularizer: plr.GlobalRegularizer, solver: str, message: str
) -> None:
    with pytest.raises(plr.errors.OptionError, match=message):
        sde(solver, regularizer=regularizer)


def test_noise_is_an_option_of_sdes() -> None:
    with pytest.raises(plr.errors.OptionError, match="no noise"):
        plr.NeuralODE(lambda t, u: u, regularizer=plr.LocalRegularizer(noise="fresh"), engine="torch")
    with pytest.raises(plr.errors.OptionError, match="fresh"):
        plr.LocalRegularizer("biased", importance="uniform", noise="fresh")
    with pytest.raises(plr.errors.OptionError, match="noise = 'old'"):
        plr.LocalRegularizer(noise="old")  # type: ignore[arg-type]
