"""The Julia engine on a GPU against itself on the CPU; and, on any machine, the order of streams."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.julia_engine import start, streams
from tests.conftest import Net, normal
from tests.julia import REASON, layer_models, module_of, needs_julia
from tests.sde import path_on, sde

MODELS = layer_models()
Solved: TypeAlias = tuple[plr.Stats, list[torch.Tensor]]


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    if REASON is not None:
        pytest.skip(f"no Julia: {REASON}")
    reason = start.why_no_cuda()
    if reason is not None:
        pytest.skip(reason)
    return torch.device("cuda", torch.cuda.current_device())


def solved(node: torch.nn.Module, u0: torch.Tensor, **options: Any) -> Solved:
    """Stats, and on the CPU: the states and the gradients of a loss."""
    start = u0.clone().requires_grad_()
    solution = node(start, **options)
    loss = solution.u.square().sum()
    if solution.regularization is not None:
        loss = loss + 3 * solution.regularization
    gradients = torch.autograd.grad(loss, [start, *node.parameters()])
    assert {x.device for x in (solution.u, *gradients)} == {u0.device}
    return solution.stats, [x.detach().cpu() for x in (solution.u, *gradients)]


def same(there: Solved, here: Solved, rtol: float = 1e-8, atol: float = 1e-9) -> None:
    assert there[0] == here[0]
    for ours, theirs in zip(there[1], here[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def same_on(gpu: torch.device, node: torch.nn.Module, u0: torch.Tensor) -> None:
    here = solved(node, u0)
    same(solved(node.to(gpu), u0.to(gpu)), here)


@pytest.mark.parametrize("name", MODELS)
def test_layers(gpu: torch.device, name: str) -> None:
    description, shape = MODELS[name]
    module = module_of(description, torch.float64)
    same_on(gpu, plr.NeuralODE(module, engine="julia", dt=0.1, adaptive=False), normal(*shape))


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "backsolve", "gauss", "quadrature"])
def test_adjoints_of_a_module_that_is_called_back(gpu: torch.device, adjoint: plr.Adjoint) -> None:
    same_on(gpu, plr.NeuralODE(Net(3), engine="julia", adjoint=adjoint), normal(4, 3))


@pytest.mark.parametrize("solver", ["BS3", "DP5", "Tsit5", "VCAB3", "VCABM3", "Vern7"])
def test_solvers_and_their_estimates(gpu: torch.device, solver: str) -> None:
    def node() -> plr.NeuralODE:
        regularizer = plr.LocalRegularizer("biased", generator=torch.Generator().manual_seed(0))
        return plr.NeuralODE(Net(3), engine="julia", solver=solver, regularizer=regularizer)

    here = solved(node(), normal(4, 3))
    same(solved(node().to(gpu), normal(4, 3).to(gpu)), here, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", ["EM", "SOSRI2", "RKMilCommute"])
def test_an_sde_over_the_same_path(gpu: torch.device, solver: str) -> None:
    u0 = normal(4, 3)
    node = sde(solver, engine="julia")
    first = node(u0).noise
    assert first is not None
    here = solved(node, u0, noise=first)
    same(solved(node.to(gpu), u0.to(gpu), noise=path_on(gpu, first)), here)


def test_work_queued_before_and_after_is_waited_for(gpu: torch.device) -> None:
    node = plr.NeuralODE(Net(3), engine="julia")
    with torch.no_grad():
        right = 2 * node(normal(4, 3)).u
        node.to(gpu)
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                u0 = torch.full((4, 3), torch.nan, dtype=torch.float64, device=gpu)
                torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
                u0.copy_(normal(4, 3).to(gpu))
                twice = 2 * node(u0).u
            stream.synchronize()
            torch.testing.assert_close(twice.cpu(), right, rtol=1e-9, atol=1e-10)


def test_stiff_solvers_stay_on_the_cpu(gpu: torch.device) -> None:
    node = plr.NeuralODE(Net(3), engine="julia", solver="Rodas5P", adjoint="interpolating").to(gpu)
    with pytest.raises(plr.errors.DeviceError, match="Rodas5P"):
        node(normal(4, 3).to(gpu))


class Recorded:
    """A stream that writes down what waits for what."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: "Recorded") -> None:
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("fails", [False, True])
def test_the_order_of_streams(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Without a GPU: who waits for whom, and that torch works on Julia's stream in between."""
    events: list[str] = []
    outside, inside = Recorded("torch's", events), Recorded("Julia's", events)

    @contextmanager
    def switched(to: Any) -> Iterator[None]:
        events.append(f"on {to.name if isinstance(to, Recorded) else to}")
        yield
        events.append("back")

    class Julia:
        def call(self, name: str, device: int) -> int:
            assert (name, device) == ("cuda_stream", 1)
            return 1234

    def external(address: int) -> Recorded:
        assert address == 1234
        return inside

    monkeypatch.setattr(torch.cuda, "device", switched)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: outside)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "ExternalStream", external)
    expected = pytest.raises(ValueError, match="dynamics") if fails else nullcontext()
    with expected, streams.in_order(Julia(), torch.device("cuda", 1)):  # type: ignore[arg-type]
        events.append("work")
        if fails:
            raise ValueError("the dynamics")
    left = [] if fails else ["back"]
    assert events[:4] == ["on cuda:1", "Julia's waits for torch's", "on Julia's", "work"]
    assert events[4:] == [*left, "torch's waits for Julia's", *left]


@needs_julia
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_julia_misses_for_a_gpu_is_said() -> None:
    reason = start.why_no_cuda()
    assert reason is not None
    assert "install-julia --cuda" in reason or "no working GPU" in reason


@needs_julia
def test_states_elsewhere_are_refused() -> None:
    node = plr.NeuralODE(Net(3), engine="julia").to("meta")
    with pytest.raises(plr.errors.DeviceError, match=r"meta.*on the CPU and on CUDA.*engine='torch'"):
        node(normal(4, 3).to("meta"))
