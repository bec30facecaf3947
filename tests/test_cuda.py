"""The same solve on a GPU: same steps, same gradients."""

import copy

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Jacobian
from pylocalreg.engines.torch_engine.captured import Captured, CudaGraph
from pylocalreg.precision import exact_convolutions
from tests.conftest import Dynamics, Net, assert_close, normal
from tests.sde import path_on, sde

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_as_on_the_cpu(sampling: plr.Sampling, adjoint: plr.Adjoint) -> None:
    def run(device: str) -> tuple[plr.Stats, list[torch.Tensor]]:
        regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator().manual_seed(0))
        node = plr.NeuralODE(Net(3), regularizer=regularizer, adjoint=adjoint, engine="torch").to(device)
        u0 = normal(4, 3).to(device).requires_grad_()
        solution = node(u0)
        assert solution.u.device == u0.device
        assert solution.regularization is not None
        loss = solution.u.square().sum() + 100 * solution.regularization
        gradients = torch.autograd.grad(loss, [u0, *node.parameters()])
        return solution.stats, [solution.u.detach().cpu(), *(g.cpu() for g in gradients)]

    stats, (u, *ours) = run("cuda")
    right_stats, (right_u, *right) = run("cpu")
    assert stats == right_stats
    torch.testing.assert_close(u, right_u, rtol=1e-9, atol=1e-10)
    # an error of some hundredths of the tolerance is known to eps / (tol / 100), 2e-8 of its own size
    assert_close(ours, right, rtol=1e-6)


def test_convolutions_in_float32_take_the_cpu_s_steps() -> None:
    """And more in TF32, at a tolerance that it does not resolve."""
    torch.manual_seed(0)
    field = torch.nn.Sequential(
        torch.nn.Conv2d(8, 32, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(32, 8, 3, padding=1)
    )
    node = plr.NeuralODE(field, (0.0, 4.0), abstol=1e-5, reltol=1e-5, engine="torch").eval()
    u0 = torch.randn(8, 8, 16, 16)

    def nfe(device: str) -> int:
        with torch.no_grad():
            return int(node.to(device)(u0.to(device)).stats.nfe)

    right, rounded = nfe("cpu"), nfe("cuda")
    with exact_convolutions():
        exact = nfe("cuda")
    assert abs(exact - right) <= 6
    if torch.backends.cudnn.allow_tf32 and torch.cuda.get_device_capability() >= (8, 0):
        assert rounded > exact


def test_state_and_parameters_apart() -> None:
    node = plr.NeuralODE(Net(3), engine="torch")
    with pytest.raises(plr.errors.DeviceError, match="cuda"):
        node(normal(4, 3).cuda())


@pytest.mark.parametrize("solver", ["SOSRI2", "RKMilCommute", "LambaEulerHeun"])
def test_an_sde_over_the_same_path(solver: str) -> None:
    u0 = normal(4, 3)
    torch.manual_seed(0)
    node = sde(solver, regularizer=plr.LocalRegularizer("biased", generator=torch.Generator().manual_seed(0)))
    first = node(u0).noise
    assert first is not None
    path = path_on("cuda", first)

    def run(noise: plr.BrownianPath) -> list[torch.Tensor]:
        node.to(noise.device)
        solution = node(u0.to(noise.device), noise=noise)
        gradients = torch.autograd.grad(solution.u.square().sum(), list(node.parameters()))
        return [solution.u.detach().cpu(), *(g.cpu() for g in gradients)]

    for a, b in zip(run(path), run(first), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_an_sde_draws_on_the_states_device() -> None:
    solution = sde("SOSRI2").cuda()(normal(4, 3).cuda())
    assert solution.noise is not None
    assert solution.noise(0.5).device == solution.u.device


@pytest.mark.parametrize("jacobian", ["system", "per_sample"])
@pytest.mark.parametrize("solver", ["Rosenbrock23", "Rodas5", "Rodas5P"])
def test_the_jacobian_of_dropout_is_of_the_mask_that_is_drawn(solver: str, jacobian: Jacobian) -> None:
    """Dropout is one fused kernel here, and under torch.func others, which draw another mask."""
    tolerance = 1e-4 if solver == "Rosenbrock23" else 1e-8
    rate = torch.tensor(1.3, dtype=torch.float64, device="cuda", requires_grad=True)
    node = plr.NeuralODE(
        lambda t, u: -rate * torch.nn.functional.dropout(u),
        solver=solver,
        abstol=tolerance,
        reltol=tolerance,
        jacobian=jacobian,
        engine="torch",
    )
    u0 = normal(4, 3).cuda().requires_grad_()
    torch.manual_seed(3)
    u = node(u0).u
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones_like(u0))
    assert 0 < int((kept > 0).sum()) < kept.numel()
    right = u0 * torch.exp(-rate * kept)
    torch.testing.assert_close(u, right, rtol=10 * tolerance, atol=10 * tolerance)
    ours, exact = (torch.autograd.grad(x.square().sum(), (u0, rate)) for x in (u, right))
    torch.testing.assert_close(ours, exact, rtol=100 * tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("regularizer", [plr.RNODE(0.0, 1.0, torch.Generator()), plr.TayNODE(2)])
def test_a_regularizers_derivative_of_dropout_is_of_the_mask_that_is_drawn(
    regularizer: plr.Regularizer,
) -> None:
    u0 = normal(4, 3).cuda()

    def value(f: Dynamics) -> torch.Tensor:
        if isinstance(regularizer, plr.RNODE):
            assert regularizer.generator is not None
            regularizer.generator.manual_seed(1)
        torch.manual_seed(3)
        node = plr.NeuralODE(f, regularizer=regularizer, engine="torch")
        regularization: torch.Tensor | None = node(u0).regularization
        assert regularization is not None
        return regularization

    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones_like(u0))
    ours = value(lambda t, u: -torch.nn.functional.dropout(u).sin())
    torch.testing.assert_close(ours, value(lambda t, u: -(kept * u).sin()), rtol=1e-9, atol=0)


def recorded(node: plr.NeuralODE) -> int:
    assert node.compiled is not None
    return sum(isinstance(kept, Captured) and isinstance(kept.graph, CudaGraph) for kept in node.compiled)


def trained(node: plr.NeuralODE, u0: torch.Tensor) -> list[float]:
    """The losses of a few steps of an optimizer."""
    optimizer = torch.optim.SGD(node.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = node(u0).u.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_with_recorded_steps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = plr.TimeDependent(plr.Dense(784, 100, "tanh"), plr.Dense(100, 784))
    node = plr.NeuralODE(layers, engine="torch").to("cuda", dtype)
    other = plr.NeuralODE(copy.deepcopy(node.dynamics), engine="torch", compile=True)
    u0 = torch.rand(512, 784, device="cuda", dtype=dtype)
    rtol = 1e-5 if dtype is torch.float32 else 1e-12
    assert trained(other, u0) == pytest.approx(trained(node, u0), rel=rtol)
    assert recorded(other) == 2


def test_dynamics_that_no_graph_holds_leave_the_device_as_it_was() -> None:
    class Waiting(Net):
        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            torch.cuda.synchronize()  # which PyTorch's dispatcher does not see
            k: torch.Tensor = super().forward(t, u)
            return k

    field, u0 = Waiting(3).cuda(), normal(4, 3).cuda()
    with pytest.warns(UserWarning, match="runs uncompiled"):
        u = plr.NeuralODE(field, engine="torch", compile=True)(u0).u
    torch.testing.assert_close(u, plr.NeuralODE(field, engine="torch")(u0).u, rtol=0, atol=0)
    other = plr.NeuralODE(Net(3), engine="torch", compile=True).cuda()
    torch.testing.assert_close(other(u0).u, u, rtol=1e-9, atol=1e-10)
    assert recorded(other) == 1


def test_recorded_steps_on_a_stream_of_the_users_own() -> None:
    node = plr.NeuralODE(Net(3), engine="torch", compile=True).cuda()
    u0 = normal(4, 3).cuda()
    right = node(u0).u.detach()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        u = node(u0).u
        u.sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(u, right, rtol=0, atol=0)
