"""The discrete adjoint of SDEs against finite differences over the same path and steps."""

from collections.abc import Callable

import pytest
import torch

import pylocalreg as plr
from pylocalreg.neural_sde import Noise
from tests.conftest import normal
from tests.sde import ADAPTIVE, METHODS, NOISES, at, sde, taken_again

TIMES = [0.0, 0.33, 0.7, 1.0]
STEP = 1e-5


def directional(value: Callable[[], float], x: torch.Tensor, direction: torch.Tensor) -> float:
    """Central differences, of fourth order."""

    def moved(by: float) -> float:
        with torch.no_grad():
            x.add_(direction, alpha=by)
            there = value()
            x.add_(direction, alpha=-by)
        return there

    near = moved(STEP) - moved(-STEP)
    return (8 * near - (moved(2 * STEP) - moved(-2 * STEP))) / (12 * STEP)


def check(node: plr.NeuralSDE, u0: torch.Tensor, of_estimates: float = 0.0) -> None:
    """By u0, each drift's and each diffusion's parameter, along a random direction each."""
    solution = node(u0)
    weights = normal(len(TIMES), *u0.shape, seed=9)
    loss = (weights * solution.u).sum()
    if solution.regularization is not None:
        loss = loss + of_estimates * solution.regularization
    inputs = [u0, *node.parameters()]
    gradients = torch.autograd.grad(loss, inputs)

    def value() -> float:
        states, values = taken_again(node, u0.detach(), solution)
        saved = torch.stack([at(states, solution, time) for time in TIMES])
        of_u = float((weights * saved).sum())
        return of_u + of_estimates * sum(values) if of_estimates else of_u

    assert value() == pytest.approx(float(loss.detach()), rel=1e-11)
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = normal(*x.shape, seed=i)
        right = directional(value, x.detach(), direction)
        assert float((gradient * direction).sum()) == pytest.approx(right, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("solver", METHODS)
def test_gradients(solver: str, noise: Noise) -> None:
    torch.manual_seed(0)
    check(sde(solver, noise, saveat=TIMES), normal(4, 3).requires_grad_())


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_gradients_of_every_estimate(solver: str) -> None:
    torch.manual_seed(1)
    node = sde(solver, saveat=TIMES, regularizer=plr.GlobalRegularizer())
    check(node, normal(4, 3).requires_grad_(), of_estimates=3.0)


@pytest.mark.parametrize("checkpoints", [1, 3])
@pytest.mark.parametrize("solver", ["SOSRI2", "EulerHeun"])
def test_checkpoints_give_the_same_gradients(solver: str, checkpoints: int) -> None:
    u0 = normal(4, 3).requires_grad_()

    def gradients(checkpoints: int | None) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(2)
        node = sde(solver, checkpoints=checkpoints)
        return torch.autograd.grad(node(u0).u.square().sum(), [u0, *node.parameters()])

    for a, b in zip(gradients(checkpoints), gradients(None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_rejected_step_leaves_the_gradient_right() -> None:
    torch.manual_seed(3)
    node = sde("SRIW1", saveat=TIMES, dt=0.9, abstol=0.01, reltol=0.01)
    u0 = normal(4, 3).requires_grad_()
    assert node(u0).stats.nreject > 0
    torch.manual_seed(3)
    check(node, u0)


def test_the_path_may_be_used_again_before_the_gradient_is_taken() -> None:
    torch.manual_seed(4)
    node, u0 = sde("SOSRI2"), normal(4, 3).requires_grad_()
    first = node(u0)
    alone = torch.autograd.grad(first.u.sum(), u0, retain_graph=True)[0]
    sde("SOSRI2", abstol=0.01, reltol=0.01)(u0.detach(), noise=first.noise)
    torch.testing.assert_close(torch.autograd.grad(first.u.sum(), u0)[0], alone, rtol=1e-10, atol=1e-12)


def test_trajectories_share_their_start() -> None:
    torch.manual_seed(5)
    u0 = normal(4, 3).requires_grad_()
    node = sde("SOSRI2", trajectories=5, saveat=[0.5, 1.0])
    solution = node(u0)
    weights = normal(*solution.u.shape, seed=3)
    (gradient,) = torch.autograd.grad((weights * solution.u).sum(), u0)
    many = u0.detach().expand(5, 4, 3).reshape(20, 3).requires_grad_()
    flat = sde("SOSRI2", saveat=[0.5, 1.0])(many, noise=solution.noise)
    torch.testing.assert_close(flat.u, solution.u.reshape(2, 20, 3))
    (of_each,) = torch.autograd.grad((weights.reshape(2, 20, 3) * flat.u).sum(), many)
    torch.testing.assert_close(gradient, of_each.reshape(5, 4, 3).sum(0))


def test_lent_parameters() -> None:
    torch.manual_seed(6)
    node, u0 = sde("SOSRI2"), normal(4, 3)
    lent = {name: (p.detach() * 1.1).requires_grad_() for name, p in node.named_parameters()}
    torch.manual_seed(7)
    loss = torch.func.functional_call(node, lent, (u0,)).u.sum()
    gradients = torch.autograd.grad(loss, list(lent.values()))
    with torch.no_grad():
        for p in node.parameters():
            p.mul_(1.1)
    torch.manual_seed(7)
    own = torch.autograd.grad(node(u0).u.sum(), list(node.parameters()))
    for a, b in zip(gradients, own, strict=True):
        torch.testing.assert_close(a, b)
