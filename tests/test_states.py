"""States that are tuples or dicts of tensors: the same solve as of one tensor, part by part."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.errors import DeviceError, DtypeError, ShapeError
from tests.conftest import normal

SAVEAT = (0.2, 0.9)
each_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS)


class Oscillator(torch.nn.Module):
    """x' = v, v' = -k x, parts of different shapes: x is (2, 3), v is (3, 2)."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.k = torch.nn.Parameter(torch.tensor([1.5, 0.5, 2.0], dtype=torch.float64))

    def forward(self, t: torch.Tensor, u: Any) -> Any:
        if self.kind is torch.Tensor:
            x, v = u[:, :3], u[:, 3:]
            return torch.cat([v, -self.k * x], 1)
        x, v = (u["x"], u["v"]) if self.kind is dict else u
        dx, dv = v.T, -(self.k * x).T
        return {"v": dv, "x": dx} if self.kind is dict else (dx, dv)


def node_of(kind: type, adjoint: plr.Adjoint = "discrete", **options: Any) -> plr.NeuralODE:
    return plr.NeuralODE(
        Oscillator(kind), saveat=SAVEAT, adjoint=adjoint, abstol=1e-9, reltol=1e-9, engine="torch", **options
    )


def state_of(kind: type, x: torch.Tensor, v: torch.Tensor) -> Any:
    if kind is torch.Tensor:
        return torch.cat([x, v.T], 1)
    return {"x": x, "v": v} if kind is dict else (x, v)


def parts_of(kind: type, u: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if kind is torch.Tensor:
        return u[..., :3], u[..., 3:].mT
    return (u["x"], u["v"]) if kind is dict else u


@each_adjoint
@pytest.mark.parametrize("kind", [tuple, dict])
def test_as_of_one_tensor(kind: type, adjoint: plr.Adjoint) -> None:
    found: dict[type, list[torch.Tensor]] = {}
    for each in (kind, torch.Tensor):
        x, v = normal(2, 3).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
        node = node_of(each, adjoint, regularizer=plr.LocalRegularizer("biased"))
        torch.manual_seed(3)
        solution = node(state_of(each, x, v))
        at_x, at_v = parts_of(each, solution.u)
        assert at_x.shape == (2, 2, 3)
        assert at_v.shape == (2, 3, 2)
        assert solution.regularization is not None
        loss = at_x.square().sum() + (at_v * normal(3, 2, seed=2)).sum() + 10 * solution.regularization
        grads = torch.autograd.grad(loss, [x, v, node.get_parameter("dynamics.k")])
        found[each] = [at_x.detach(), at_v.detach(), solution.regularization.detach(), *grads]
    for ours, plain in zip(found[kind], found[torch.Tensor], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_dense_output(kind: type) -> None:
    with torch.no_grad():
        solution = node_of(kind)(state_of(kind, normal(2, 3), normal(3, 2)), dense=True)
    for at, saved in zip(parts_of(kind, solution(SAVEAT[0])), parts_of(kind, solution.u), strict=True):
        torch.testing.assert_close(at, saved[0])


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ((), ShapeError),
        ({}, ShapeError),
        ((torch.ones(2), 1.0), ShapeError),
        ((torch.ones(2), torch.ones(0)), ShapeError),
        ((torch.ones(2), torch.ones(2, dtype=torch.float64)), DtypeError),
        ({"a": torch.ones(2, dtype=torch.complex64)}, DtypeError),
        ((torch.ones(2), torch.ones(2, device="meta")), DeviceError),
    ],
    ids=str,
)
def test_states_that_can_not_be(state: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        plr.NeuralODE(lambda t, u: u, engine="torch")(state)


@pytest.mark.parametrize(
    "gives",
    [
        lambda u: u[0],
        lambda u: (u[0],),
        lambda u: (u[1], u[0]),
        lambda u: (u[0], None),
        lambda u: {"x": u[0], "v": u[1]},
    ],
)
def test_dynamics_that_give_something_else(gives: Any) -> None:
    node = plr.NeuralODE(lambda t, u: gives(u), engine="torch")
    with pytest.raises(ShapeError, match="tuple"):
        node((torch.ones(2), torch.ones(3)))
    renamed = plr.NeuralODE(lambda t, u: {"b": u["a"]}, engine="torch")
    with pytest.raises(ShapeError, match="dict"):
        renamed({"a": torch.ones(2)})


def test_a_part_of_another_dtype() -> None:
    def f(t: torch.Tensor, u: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return -u[0], u[1].float()

    with pytest.raises(DtypeError, match=r"part of torch\.float32"):
        plr.NeuralODE(f, engine="torch")((normal(2), normal(3)))


@pytest.mark.parametrize("state", [(torch.ones(2, 3),), {"a": torch.ones(2, 3)}], ids=["tuple", "dict"])
def test_layers_alone_take_no_parts(state: Any) -> None:
    node = plr.NeuralODE(plr.Chain(plr.Dense(3, 3, "tanh")), engine="torch")
    with pytest.raises(ShapeError, match="layers take one tensor"):
        node(state)
