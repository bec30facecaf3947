"""The measures of a step: their values, and derivatives that stay right where a norm is zero."""

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.error_norm import (
    mean_square,
    rms,
    scaled_rms,
    scaled_rms_reversed,
    stiffness,
)
from tests.conftest import assert_close, normal
from tests.julia import ENGINES

F64 = torch.float64
ZERO = torch.zeros(3, 2, dtype=F64)


def derivatives(value: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The first, and those of the second order along ones."""
    first = torch.autograd.grad(value, inputs, create_graph=True)
    second = torch.autograd.grad(sum((g.sum() for g in first), value * 0), inputs)
    return [*(g.detach() for g in first), *second]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [1, 7, 100, 1001])
def test_rms_with_and_without_a_graph_is_the_same(dtype: torch.dtype, size: int) -> None:
    for seed in range(20):
        x = normal(size, seed=seed, dtype=dtype)
        expected = torch.linalg.vector_norm(x) / size**0.5
        assert rms(x) == expected
        assert rms(x.requires_grad_()).detach() == expected


def test_second_derivatives_by_finite_differences() -> None:
    x, y, z = (normal(3, 2, seed=seed).requires_grad_() for seed in range(3))
    for measure, inputs in ((rms, (x,)), (mean_square, (x,)), (stiffness, (x, y))):
        assert torch.autograd.gradcheck(measure, inputs)
        assert torch.autograd.gradgradcheck(measure, inputs)
    assert torch.autograd.gradgradcheck(lambda e, u, v: scaled_rms(e, u, v, 0.1, 0.2), (x, y, z))


def test_derivatives_are_zero_where_the_norm_is() -> None:
    x = ZERO.clone().requires_grad_()
    assert rms(x).item() == 0
    assert not any(g.any() for g in derivatives(rms(x), [x]))
    u = ZERO.clone().requires_grad_()
    assert not any(g.any() for g in derivatives(scaled_rms(x, u, u + x, 1e-3, 1e-3), [x, u]))
    assert not torch.func.hessian(rms)(ZERO).any()
    x = normal(3, 2)
    torch.testing.assert_close(torch.func.jacfwd(rms)(x), torch.func.grad(rms)(x))
    every = torch.vmap(torch.func.grad(rms))(torch.stack([ZERO, x]))
    assert not every[0].any()
    torch.testing.assert_close(every[1], torch.func.grad(rms)(x))


@pytest.mark.parametrize(("of_f", "of_u"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_stiffness_of_nothing_is_zero(of_f: float, of_u: float) -> None:
    x, y = (torch.full((3, 2), value, dtype=F64, requires_grad=True) for value in (of_f, of_u))
    value = stiffness(x, y)
    assert value.item() == 0
    assert not any(g.any() for g in derivatives(value, [x, y]))


# -- the regularizer ------------------------------------------------------------------------------------

STIFFNESS: list[plr.Regularizer] = [
    plr.GlobalRegularizer("stiffness"),
    plr.LocalRegularizer("unbiased", quantity="stiffness", through_state=True),
    plr.LocalRegularizer("biased", quantity="stiffness"),
]
each_regularizer = pytest.mark.parametrize("regularizer", STIFFNESS, ids=["global", "unbiased", "biased"])


def assert_nothing(solution: plr.Solution, inputs: list[torch.Tensor]) -> None:
    assert solution.regularization is not None
    assert float(solution.regularization.detach()) == 0
    gradients = torch.autograd.grad(solution.regularization, inputs, allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)


@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("solver", ["Tsit5", "DP5", "Vern7"])
@pytest.mark.parametrize("engine", ENGINES)
@each_regularizer
def test_stiffness_of_constant_dynamics(
    regularizer: plr.Regularizer, engine: str, solver: str, bias: float
) -> None:
    """A zero-initialised last layer: f = bias everywhere."""
    node = plr.NeuralODE(
        plr.Chain(plr.Dense(2, 3, "tanh"), plr.Dense(3, 2)),
        solver=solver,
        engine=engine,
        regularizer=regularizer,
    ).double()
    p = node.get_parameter("dynamics.p")
    with torch.no_grad():
        p[9:].zero_()  # the second layer's
        p[-2:].fill_(bias)
    u0 = normal(4, 2).requires_grad_()
    assert_nothing(node(u0), [u0, p])


@pytest.mark.parametrize("engine", ENGINES)
@each_regularizer
def test_stiffness_of_an_sde_without_a_drift(regularizer: plr.Regularizer, engine: str) -> None:
    drift, diffusion = (plr.Chain(plr.Dense(2, 3, "tanh"), plr.Dense(3, 2)) for _ in range(2))
    for scale in (0.0, 1.0):
        node = plr.NeuralSDE(
            drift, diffusion, solver="SOSRI2", engine=engine, abstol=0.1, reltol=0.1, regularizer=regularizer
        ).double()
        with torch.no_grad():
            for name, p in node.named_parameters():
                p.mul_(scale if "diffusion" in name else 0)
        u0 = normal(4, 2).requires_grad_()
        assert_nothing(node(u0), [u0, *node.parameters()])


def test_its_derivatives_by_hand_are_those_by_autograd() -> None:
    error, u, u_new = (normal(6, 4, seed=seed) for seed in range(3))
    u_new[0], u_new[1], error[2] = u[0], -u[1], 0
    u[3] = u_new[3] = 0
    leaves = [x.requires_grad_() for x in (error, u, u_new)]
    value = scaled_rms(error, u, u_new, 1e-3, 1e-2)
    right = torch.autograd.grad(value, leaves, torch.tensor(2.5))
    with torch.no_grad():
        given, by_error, by_new, by_u = scaled_rms_reversed(error, u, u_new, 1e-3, 1e-2, 2.5)
        none = scaled_rms_reversed(torch.zeros(3), torch.ones(3), torch.ones(3), 1e-3, 1e-2, 1.0, to_u=False)
    assert by_u is not None
    torch.testing.assert_close(given, value.detach(), rtol=0, atol=0)
    assert_close([by_error, by_u, by_new], list(right), rtol=1e-13)
    assert none[3] is None
    assert not any(x.any() for x in none[:3])
