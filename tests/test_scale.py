"""The logarithmic scale of the local regularizer: value and gradients from those of the linear one."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.scale import FLOOR, scaled, slope
from pylocalreg.errors import OptionError
from tests.conftest import Net, normal
from tests.julia import ENGINES
from tests.sde import sde

F64 = torch.float64


def regularizer(scale: Any, **options: Any) -> plr.LocalRegularizer:
    return plr.LocalRegularizer(**options, scale=scale, generator=torch.Generator().manual_seed(3))


def logarithm(linear: torch.Tensor, dt: float) -> torch.Tensor:
    return torch.log10(1 + linear / abs(dt) / 0.01)


def test_the_scale_and_its_slope() -> None:
    assert FLOOR == 0.01
    for estimate, dt in ((0.3, 0.2), (1e-9, -0.5), (0.0, 1.0), (5.0, 1e-3)):
        assert scaled("linear", estimate, dt) == estimate
        assert slope("linear", estimate, dt) == 1
        x = torch.tensor(estimate, dtype=F64, requires_grad=True)
        value = scaled("log", x, dt)
        assert float(value.detach()) == pytest.approx(math.log10(1 + estimate / abs(dt) / 0.01), rel=1e-9)
        assert scaled("log", estimate, dt) == pytest.approx(float(value.detach()), rel=1e-12)
        (by_x,) = torch.autograd.grad(value, x)
        assert slope("log", estimate, dt) == pytest.approx(float(by_x), rel=1e-12)


def test_the_default() -> None:
    """Log for the error; linear where a value has a meaning of its own."""
    f, u0 = Net(3), normal(4, 3)

    def value(**options: Any) -> float:
        node = plr.NeuralODE(f, engine="torch", regularizer=regularizer(**options))
        with torch.no_grad():
            return float(node(u0).regularization)

    for sampling in ("unbiased", "biased"):
        assert value(scale=None, sampling=sampling) == value(scale="log", sampling=sampling)
    for options in ({"quantity": "stiffness"}, {"sampling": "biased", "importance": "uniform"}):
        assert value(scale=None, **options) == value(scale="linear", **options)
        with pytest.raises(OptionError, match="scale='linear'"):
            regularizer("log", **options)
    with pytest.raises(OptionError, match="scale = 'square'"):
        regularizer("square")
    paper = plr.LocalRegularizer.paper()
    assert paper == replace(paper, scale="linear")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "backsolve"])
@pytest.mark.parametrize("step", ["solver", "initial"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_value_and_gradient(sampling: str, step: str, adjoint: Any, engine: str) -> None:
    """Those of a logarithm of the linear regularizer's, beside another loss."""
    f, u0 = Net(3), normal(4, 3).requires_grad_()
    given = [u0, *f.parameters()]

    def solved(scale: str) -> plr.Solution:
        chosen = regularizer(scale, sampling=sampling, step=step, through_state=adjoint == "discrete")
        options: Any = {"abstol": 1e-5, "reltol": 1e-5, "adjoint": adjoint, "engine": engine}
        solution: plr.Solution = plr.NeuralODE(f, regularizer=chosen, **options)(u0)
        return solution

    ours, linear = solved("log"), solved("linear")
    assert ours.regularization is not None
    assert linear.regularization is not None
    steps = ours.steps
    sizes = [*steps.dt, *(1 - steps.t)]  # a step may be cut at the end
    if step == "initial" or sampling == "unbiased":
        value = float(ours.regularization.detach())
        sizes = [float(linear.regularization.detach()) / (0.01 * (10**value - 1))]
    theirs = [logarithm(linear.regularization, float(dt)) for dt in sizes]
    right = min(theirs, key=lambda x: abs(float(x.detach()) - float(ours.regularization.detach())))  # type: ignore[union-attr]
    torch.testing.assert_close(ours.regularization, right, rtol=1e-9, atol=0)
    one = torch.autograd.grad(ours.u.square().sum() + 3 * ours.regularization, given)
    other = torch.autograd.grad(linear.u.square().sum() + 3 * right, given)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solver", ["VCABM3", "Rodas5", "Vern7"])
def test_other_solvers(solver: str) -> None:
    f, u0 = Net(2), normal(2, 2).requires_grad_()
    values = {}
    for scale in ("log", "linear"):
        node = plr.NeuralODE(
            f, solver=solver, engine="torch", regularizer=regularizer(scale, sampling="biased")
        )
        values[scale] = node(u0)
    linear, ours = values["linear"].regularization, values["log"].regularization
    assert linear is not None
    assert ours is not None
    every = [logarithm(linear, float(dt)) for dt in values["log"].steps.dt]
    right = min(every, key=lambda x: abs(float(x.detach()) - float(ours.detach())))
    torch.testing.assert_close(ours, right, rtol=1e-9, atol=0)
    one, other = (torch.autograd.grad(x, list(f.parameters())) for x in (ours, right))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


def test_the_mean_is_over_logarithms() -> None:
    f, u0 = Net(3), normal(4, 3)
    many = regularizer("log", sampling="biased", samples=4)
    solution = plr.NeuralODE(f, engine="torch", regularizer=many)(u0)
    draws = plr.regularizers.sampling.Reservoirs(4, "none", torch.Generator().manual_seed(3))
    for i in range(len(solution.steps.t)):
        draws.offer(i, 0.0)
    EEst = solution.steps.EEst
    wanted = sum(weight * math.log10(1 + EEst[i] / 0.01) for i, weight in draws.weights.items())
    assert len(draws.weights) > 1
    assert float(solution.regularization.detach()) == pytest.approx(wanted, rel=1e-12)  # type: ignore[union-attr]


def test_second_derivatives() -> None:
    def value(u0: torch.Tensor) -> torch.Tensor:
        node = plr.NeuralODE(Net(2), engine="torch", regularizer=regularizer("log", sampling="biased"))
        solution = node(u0, saveat=[0.5])
        assert solution.regularization is not None
        total: torch.Tensor = solution.u.square().sum() + solution.regularization
        return total

    def through(u0: torch.Tensor) -> torch.Tensor:
        chosen = replace(regularizer("log", sampling="biased"), through_state=True)
        solution = plr.NeuralODE(Net(2), engine="torch", regularizer=chosen, dt=0.25, adaptive=False)(u0)
        found: torch.Tensor | None = solution.regularization
        assert found is not None
        return found

    # fixed steps: an adaptive solve's sizes are functions of u0 that are held constant
    u0 = normal(2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(through, (u0,), atol=1e-6)
    (first,) = torch.autograd.grad(value(u0), u0, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(first.sum(), u0)[0]).all()


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_sdes(sampling: Any) -> None:
    u0 = normal(4, 3)
    values = []
    for scale in ("log", "linear"):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        node = sde("SOSRI2", regularizer=regularizer(scale, sampling=sampling), generator=generator)
        values.append(node(u0).regularization)
    ours, linear = values
    assert ours is not None
    assert linear is not None
    dt = float(linear.detach()) / (0.01 * (10 ** float(ours.detach()) - 1))
    assert 0 < dt <= 1
    torch.testing.assert_close(logarithm(linear, dt), ours)


def test_the_pull_is_that_of_the_share_it_changes() -> None:
    """Of dynamics that are c times another's and solved c times as fast, EEst and value are the same."""
    f, u0 = Net(3), normal(4, 3)

    def value(c: float) -> float:
        def faster(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            slope: torch.Tensor = f(c * t, u)
            return c * slope

        node = plr.NeuralODE(
            faster,
            (0.0, 1 / c),
            dt=0.1 / c,
            engine="torch",
            regularizer=regularizer("log", sampling="biased"),
        )
        with torch.no_grad():
            return float(node(u0).regularization)

    assert value(4.0) == pytest.approx(value(1.0), rel=1e-9)
