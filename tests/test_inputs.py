"""Inputs that stay constant along a solve."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.dynamics import Layers
from pylocalreg.errors import OptionError, ShapeError
from tests.conftest import normal
from tests.julia import ENGINES, module_of


class Driven(torch.nn.Module):
    """du/dt depends on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(normal(3, 3, seed=1))

    def forward(self, t: torch.Tensor, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(u @ self.w + x * torch.cos(t)) - y * u


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "backsolve"])
@pytest.mark.parametrize("solver", ["Tsit5", "VCAB3", "Rosenbrock23"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_as_tensors_that_the_dynamics_close_over(
    sampling: plr.Sampling, solver: str, adjoint: plr.Adjoint
) -> None:
    """An earlier solve's backward still sees its own inputs when another solve was given others."""
    u0, weight = normal(4, 3).requires_grad_(), normal(4, 3, seed=2).requires_grad_()
    dynamics = Driven()

    def run(injected: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x, y = 2 * weight, weight.square()
        regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator().manual_seed(0))
        options: dict[str, Any] = {
            "solver": solver, "adjoint": adjoint, "abstol": 1e-3, "reltol": 1e-3, "regularizer": regularizer
        }  # fmt: skip
        if injected:
            node = plr.NeuralODE(dynamics, engine="torch", **options)
            solution = node(u0, inputs=(x, y))
            node(u0, inputs=(0 * x, 0 * y))
        else:
            closed = plr.NeuralODE(
                lambda t, u: dynamics(t, u, x, y), params=(dynamics.w, x, y), engine="torch", **options
            )
            solution = closed(u0)
        assert solution.regularization is not None
        loss = solution.u.square().sum() + 10 * solution.regularization
        return loss.detach(), list(torch.autograd.grad(loss, [u0, weight, dynamics.w]))

    value, ours = run(injected=True)
    right_value, right = run(injected=False)
    assert torch.equal(value, right_value)
    for one, other in zip(ours, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert float(one.abs().max()) > 0


def test_a_state_of_parts_takes_inputs() -> None:
    def f(t: torch.Tensor, u: tuple[torch.Tensor, ...], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return u[1], x - u[0]

    node = plr.NeuralODE(f, abstol=1e-9, reltol=1e-9, engine="torch")
    x = torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(2, dtype=torch.float64)
    position, _ = node((zero, zero), inputs=(x,)).u
    torch.testing.assert_close(position, x * (1 - torch.cos(torch.ones(2, dtype=torch.float64))))
    (gradient,) = torch.autograd.grad(position.sum(), x)
    torch.testing.assert_close(gradient, 1 - torch.cos(torch.ones(2, dtype=torch.float64)))


DESCRIBED: dict[str, tuple[Layers, tuple[int, ...], tuple[int, ...]]] = {
    "dense": (plr.Chain(plr.Dense(5, 6, "tanh"), plr.Dense(6, 3), injected=2), (4, 3), (4, 2)),
    "dense, timed": (plr.TimeDependent(plr.Dense(5, 3, "tanh"), injected=2), (4, 3), (4, 2)),
    "vector": (plr.Chain(plr.Dense(5, 3, "tanh"), injected=2), (3,), (2,)),
    "conv": (plr.TimeDependent(plr.Conv(5, 2, 3), injected=3), (2, 2, 4, 4), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DESCRIBED)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
def test_into_described_layers(name: str, adjoint: plr.Adjoint, engine: str) -> None:
    """As if the input were a part of the state that does not move."""
    description, shape, of_input = DESCRIBED[name]
    axis = 1 if len(shape) == 4 else len(shape) - 1
    layers = module_of(description, torch.float64)
    u0, x = normal(*shape).requires_grad_(), normal(*of_input, seed=1).requires_grad_()
    options: dict[str, Any] = {"abstol": 1e-9, "reltol": 1e-9}

    def plain(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        parts = torch.split(u, [shape[axis], of_input[axis]], dim=axis)
        return layers.forward(t, *parts)

    def padded(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        du = plain(t, u)
        return torch.cat([du, torch.zeros(of_input, dtype=u.dtype)], dim=axis)

    node = plr.NeuralODE(
        layers, engine=engine, adjoint=adjoint, regularizer=plr.LocalRegularizer("biased"), **options
    )
    solution = node(u0, inputs=(x,))
    assert solution.regularization is not None
    (of_estimate,) = torch.autograd.grad(solution.regularization, x, retain_graph=True)
    assert float(of_estimate.abs().max()) > 0
    whole = plr.NeuralODE(padded, engine="torch", params=[layers.p], **options)(torch.cat([u0, x], dim=axis))
    end = whole.u.narrow(axis, 0, shape[axis])
    torch.testing.assert_close(solution.u, end, rtol=1e-8, atol=1e-8)
    weights = normal(*shape, seed=2)
    ours = torch.autograd.grad((solution.u * weights).sum(), [u0, x, layers.p])
    theirs = torch.autograd.grad((end * weights).sum(), [u0, x, layers.p])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_refused() -> None:
    u0 = normal(4, 3)
    described = plr.NeuralODE(plr.TimeDependent(plr.Dense(3, 3)), engine="torch").double()
    with pytest.raises(OptionError, match="TimeDependent that takes none"):
        described(u0, inputs=(u0,))
    injected = plr.NeuralODE(plr.Chain(plr.Dense(5, 3), injected=2), engine="torch").double()
    with pytest.raises(OptionError, match="0 inputs for a Chain that takes one"):
        injected(u0)
    with pytest.raises(ShapeError, match=r"\(4, 2\)"):
        injected(u0, inputs=(u0,))
    with pytest.raises(ShapeError, match="from 5, 1 of them injected, to 3"):
        plr.Chain(plr.Dense(5, 3), injected=1)
    with pytest.raises(OptionError, match="no Dense or Conv"):
        plr.Chain(plr.GroupNorm(4, 2), plr.Dense(4, 3), injected=1)
    per_sample = plr.NeuralODE(Driven(), solver="Rodas5P", jacobian="per_sample", engine="torch")
    with pytest.raises(OptionError, match="2 inputs"):
        per_sample(u0, inputs=(u0, u0))
