"""Dynamics whose dependence on the state autograd does not see: refused, where a gradient is wanted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import JacobianError, OptionError
from tests.julia import ENGINES, needs_julia

W = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))


def through_numpy(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(-2 * np.tanh(u.detach().numpy()))


def partly_through_numpy(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return W * through_numpy(t, u)


def through_a_list(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.tensor([-2 * x for x in u.tolist()], dtype=u.dtype)


def through_numbers(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.tensor([-2 * float(x) for x in u], dtype=u.dtype)


def through_an_array(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(-2 * np.asarray(u.detach()))


def through_dlpack(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(-2 * np.from_dlpack(u.detach()))


def beside_numpy(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u + through_numpy(t, u)


def beside_a_number(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u * float(u.norm())


def after_writing(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    kept = through_numpy(t, u)
    return u.mul_(-1).add_(kept)


LEAVING = [
    through_numpy,
    partly_through_numpy,
    beside_numpy,
    beside_a_number,
    after_writing,
    through_a_list,
    through_numbers,
    through_an_array,
    through_dlpack,
]
CONSTANT: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ones": lambda t, u: torch.ones_like(u),
    "of time": lambda t, u: t.expand_as(u).clone(),
    "of a parameter": lambda t, u: W.expand_as(u),
    "switched": lambda t, u: torch.where(u > 0, -torch.ones_like(u), torch.ones_like(u)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("f", LEAVING, ids=lambda f: f.__name__)
def test_they_are_refused(f: Any, engine: str) -> None:
    node = plr.NeuralODE(f, engine=engine)
    with pytest.raises(OptionError, match="autograd does not see"):
        node(torch.ones(2, dtype=torch.float64, requires_grad=True))


def test_a_single_number_as_the_state() -> None:
    u0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(OptionError, match="sees a part alone"):
        plr.NeuralODE(lambda t, u: -u + u.item() ** 2, engine="torch")(u0)


@pytest.mark.parametrize("f", LEAVING, ids=lambda f: f.__name__)
def test_they_are_solved_without_a_gradient(f: Any) -> None:
    u0 = torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        assert plr.NeuralODE(f, engine="torch")(u0.requires_grad_()).u.shape == (2,)


def test_as_drift_and_as_diffusion() -> None:
    u0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for sides in ((through_numpy, lambda t, u: 0.1 * u), (lambda t, u: -u, through_numpy)):
        with pytest.raises(OptionError, match="autograd does not see"):
            plr.NeuralSDE(*sides, engine="torch", abstol=0.1, reltol=0.1)(u0)


@pytest.mark.parametrize("start", [0.0, 0.7])
@pytest.mark.parametrize("name", CONSTANT)
def test_constant_dynamics_are_not(name: str, start: float) -> None:
    u0 = torch.full((2,), start, dtype=torch.float64, requires_grad=True)
    node = plr.NeuralODE(CONSTANT[name], engine="torch", dt=0.1, adaptive=False, params=(W,))
    (by_u0,) = torch.autograd.grad(node(u0).u.sum(), u0)
    assert torch.equal(by_u0, torch.ones(2, dtype=torch.float64))


def branching(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u if u.max().item() > 0.5 else -2 * u


def logging(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    print(float(u.norm()), t.item())
    return -u


def detaching(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    size: torch.Tensor = u.detach().norm()
    return -u / size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", [0.5, 1.0])
@pytest.mark.parametrize("f", [branching, logging, detaching], ids=lambda f: f.__name__)
def test_looking_at_elements_and_detaching_are_not(f: Any, start: float, dtype: torch.dtype) -> None:
    """At 0.5 the branch switches just where the solve begins."""
    u0 = torch.full((2,), start, dtype=dtype, requires_grad=True)
    plr.NeuralODE(f, engine="torch", tspan=(0.0, 0.3))(u0).u.sum().backward()
    assert u0.grad is not None


@needs_julia
def test_a_julia_function_called_by_hand() -> None:
    import juliacall

    f = juliacall.Main.seval("u -> -2 .* u")

    def dynamics(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(f(u.detach().numpy())))

    with pytest.raises(OptionError, match=r"plr\.julia\.function"):
        plr.NeuralODE(dynamics, engine="julia")(torch.ones(2, dtype=torch.float64, requires_grad=True))


DETACHING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "a part": lambda t, u: -u + 0.3 * u.detach() ** 2,
    "by .data": lambda t, u: -u.data,
}


@pytest.mark.parametrize("f", DETACHING.values(), ids=list(DETACHING))
def test_a_jacobian_that_lacks_what_is_detached_is_refused(f: Any) -> None:
    """With half a Jacobian a Rosenbrock step has half its order, and an estimate that does not say so."""
    u0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    node = plr.NeuralODE(f, engine="torch", solver="Rodas5P")
    with torch.no_grad(), pytest.raises(JacobianError, match=r"leave detach\(\) and \.data out"):
        node(u0)


def test_a_constant_may_be_detached_and_a_switch_be_looked_at() -> None:
    u0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    switched = plr.NeuralODE(
        lambda t, u: torch.where(u.detach() > 1, -2.0, -1.0) * u, engine="torch", solver="Rodas5P"
    )
    torch.testing.assert_close(switched(u0).u, u0 * torch.tensor(-1.0).exp(), rtol=1e-5, atol=1e-6)
    plain = plr.NeuralODE(lambda t, u: -u * W, engine="torch", solver="Rodas5P")
    detaching = plr.NeuralODE(lambda t, u: -u * W.detach(), engine="torch", solver="Rodas5P")
    torch.testing.assert_close(detaching(u0).u, plain(u0).u)
