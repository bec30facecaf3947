"""Layer descriptions against plain PyTorch."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.dynamics import ACTIVATIONS, LayerDynamics
from pylocalreg.errors import OptionError
from tests.conftest import normal
from tests.julia import ENGINES

NOT_A_LAYER: Any = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3,), (2, 4, 3)])
def test_dense(shape: tuple[int, ...], timed: bool, activation: str) -> None:
    """p is, layer by layer, the weight out x in in column-major order, then the bias."""
    chain = plr.TimeDependent if timed else plr.Chain
    f = LayerDynamics(chain(plr.Dense(3, 4, activation), plr.Dense(4, 3))).double()
    with torch.no_grad():
        f.p.copy_(normal(f.p.numel(), seed=1))
    u, t = normal(*shape), torch.tensor(0.7, dtype=torch.float64)
    x, place = u, 0
    for inputs, outputs, name in ((3, 4, activation), (4, 3, "identity")):
        inputs += int(timed)
        weight = f.p[place : place + inputs * outputs].view(inputs, outputs).t()
        place += inputs * outputs
        bias = f.p[place : place + outputs]
        place += outputs
        if timed:
            x = torch.cat([x, t.expand(*x.shape[:-1], 1)], dim=-1)
        x = ACTIVATIONS[name](torch.nn.functional.linear(x, weight, bias))
    assert place == f.p.numel()
    torch.testing.assert_close(f(t, u), x)


@pytest.mark.parametrize("timed", [False, True])
def test_convolution_and_norms(timed: bool) -> None:
    chain = plr.TimeDependent if timed else plr.Chain
    layers = (plr.Conv(2, 4, 3, "tanh"), plr.GroupNorm(4, 2, "relu"), plr.Conv(4, 2, 1))
    f = LayerDynamics(chain(*layers)).double()
    u, t = normal(3, 2, 5, 6), torch.tensor(0.3, dtype=torch.float64)
    w1, b1, scale, shift, w2, b2 = f.tensors()
    assert w1.shape == (4, 2 + timed, 3, 3)

    def with_time(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.full_like(x[:, :1], 0.3)], dim=1) if timed else x

    x = torch.tanh(torch.conv2d(with_time(u), w1, b1, padding=1))
    x = torch.relu(torch.nn.functional.group_norm(x, 2, scale, shift))
    torch.testing.assert_close(f(t, u), torch.conv2d(with_time(x), w2, b2))
    torch.testing.assert_close(scale, torch.ones(4, dtype=torch.float64))


def test_gradient_through_convolutions() -> None:
    f = plr.Chain(plr.Conv(2, 3, 3, "tanh"), plr.BatchNorm(3), plr.Conv(3, 2, 3))
    node = plr.NeuralODE(f, (0.0, 0.5), abstol=1e-10, reltol=1e-10, engine="torch").double()
    u0, p = normal(2, 2, 3, 3), node.get_parameter("dynamics.p")
    direction = normal(p.numel(), seed=3)
    gradient = torch.autograd.grad(node(u0).u.square().sum(), p)[0]
    values = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            p.add_(direction, alpha=sign * 1e-4)
            values.append(float(node(u0).u.square().sum()))
            p.sub_(direction, alpha=sign * 1e-4)
    assert float(gradient @ direction) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)


def test_batch_norm_moves_its_statistics_by_its_momentum() -> None:
    f = LayerDynamics(plr.Chain(plr.Dense(3, 3), plr.BatchNorm(3, momentum=0.25))).double()
    u = normal(6, 3)
    with torch.no_grad():
        w, b, *_ = f.tensors()
        f(torch.tensor(0.0, dtype=torch.float64), u)
    x = u @ w + b
    torch.testing.assert_close(f.get_buffer("running_mean_1"), 0.25 * x.mean(0))
    torch.testing.assert_close(f.get_buffer("running_var_1"), 0.75 + 0.25 * x.var(0))


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_norm_s_statistics_are_of_all_times_of_a_solve(engine: str) -> None:
    """At PyTorch's momentum for ordinary networks, 0.1, they are those of its last calls alone."""
    u0 = 2 + normal(16, 3)

    def far(momentum: float) -> float:
        layers = plr.Chain(plr.BatchNorm(3, momentum=momentum), plr.Dense(3, 3))
        node = plr.NeuralODE(layers, (0.0, 3.0), solver="Euler", dt=0.1, engine=engine).double()
        times = [0.1 * step for step in range(30)]
        with torch.no_grad():
            node.get_parameter("dynamics.p").fill_(0.5)
            for _ in range(200):
                states = node(u0, saveat=times).u
        return float((node.get_buffer("dynamics.running_mean_0") - states.mean((0, 1))).abs().max())

    assert far(plr.BatchNorm(3).momentum) < 0.1 * far(0.1)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, math.nan, True, "0.1"])
def test_a_momentum_is_from_0_to_1(momentum: Any) -> None:
    with pytest.raises(OptionError, match="momentum"):
        plr.BatchNorm(3, momentum=momentum)


def test_batch_norm_statistics_move_in_the_forward_solve_alone() -> None:
    torch.manual_seed(0)
    f = plr.Chain(plr.Dense(3, 3, "tanh"), plr.BatchNorm(3))
    node = plr.NeuralODE(f, engine="torch", regularizer=plr.LocalRegularizer())
    mean = node.get_buffer("dynamics.running_mean_1")
    solution = node(torch.randn(6, 3))
    after_forward = mean.clone()
    assert after_forward.abs().max() > 0
    (solution.u.sum() + solution.regularization).backward()
    assert torch.equal(mean, after_forward)
    node.eval()
    x = torch.randn(6, 3)
    alone = node(x[:1]).u
    assert torch.equal(mean, after_forward)
    torch.testing.assert_close(node(x).u[:1], alone, rtol=1e-4, atol=1e-4)  # other samples do not matter


def test_copies() -> None:
    node = plr.NeuralODE(plr.TimeDependent(plr.Dense(3, 3, "tanh")), engine="torch")
    x = torch.randn(2, 3)
    node(x).u.sum().backward()
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        torch.testing.assert_close(other(x).u, node(x).u, rtol=0, atol=0)
        with torch.no_grad():
            other.get_parameter("dynamics.p").add_(1.0)
        assert not torch.allclose(other(x).u, node(x).u)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: plr.Chain(), plr.errors.ShapeError, "at least one"),
        (lambda: plr.Chain(plr.Dense(3, 4)), plr.errors.ShapeError, "from 3 to 4"),
        (lambda: plr.Chain(plr.Dense(3, 4), plr.Dense(5, 3)), plr.errors.ShapeError, "4 outputs"),
        (lambda: plr.Dense(3, 0), plr.errors.ShapeError, "outputs = 0"),
        (lambda: plr.Dense(3, 3, "tahn"), plr.errors.OptionError, "tahn"),
        (lambda: plr.Conv(2, 2, 4), plr.errors.ShapeError, "odd"),
        (lambda: plr.GroupNorm(4, 3), plr.errors.ShapeError, "4 channels"),
        (lambda: plr.Chain(NOT_A_LAYER), plr.errors.OptionError, "Linear"),
    ],
)
def test_wrong_descriptions(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_layer_that_is_frozen_and_thawed() -> None:
    """Calls of one's own, beside solves: the views of the parameters are those of the moment."""
    layers = LayerDynamics(plr.Chain(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3)))
    t, u = torch.zeros(()), torch.ones(2, 3)
    for frozen in (False, True, False):
        layers.requires_grad_(not frozen)
        assert layers(t, u).requires_grad is not frozen


def test_softplus_is_exact_above_twenty() -> None:
    """PyTorch's own takes x for it there, 2e-9 too little, and the stack does not."""
    x = torch.tensor([19.9, 20.1, 25.0, 60.0], dtype=torch.float64, requires_grad=True)
    y = ACTIVATIONS["softplus"](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y - x, torch.log1p(torch.exp(-x)), rtol=0, atol=2e-14)
    torch.testing.assert_close(slope, torch.sigmoid(x), rtol=1e-15, atol=0)
