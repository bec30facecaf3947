"""Inputs that stay constant along a solve."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import OptionError
from tests.conftest import normal


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


def test_refused() -> None:
    u0 = normal(4, 3)
    described = plr.NeuralODE(plr.TimeDependent(plr.Dense(3, 3)), engine="torch").double()
    with pytest.raises(OptionError, match="TimeDependent"):
        described(u0, inputs=(u0,))
    per_sample = plr.NeuralODE(Driven(), solver="Rodas5P", jacobian="per_sample", engine="torch")
    with pytest.raises(OptionError, match="2 inputs"):
        per_sample(u0, inputs=(u0, u0))
