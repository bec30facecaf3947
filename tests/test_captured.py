"""Steps recorded as a graph and replayed (``compile=True`` on a GPU): the solve and gradient of plain steps.

On the CPU the graph is a stand-in that runs the function again; what the memory of a CUDA graph asks for is
the same. With a GPU the tests run there too, with the real one.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.captured import Captured, Tensors
from pylocalreg.engines.torch_engine.explicit_rk import compiled
from tests.conftest import Net, assert_close, normal


class Rerun:
    """In the place of a CUDA graph: as there, nothing is computed while it is recorded."""

    def __init__(self, device: torch.device) -> None:
        pass

    def capture(self, run: Callable[[], Tensors]) -> Tensors:
        self.run, self.outputs = run, tuple(x.new_full(x.shape, float("nan")) for x in run())
        return self.outputs

    def replay(self) -> None:
        for output, now in zip(self.outputs, self.run(), strict=True):
            output.copy_(now)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(compiled.GRAPHS, "cpu", Rerun)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing falls back without a word
        yield request.param


def pair(device: str, dynamics: object = None, **options: object) -> tuple[plr.NeuralODE, plr.NeuralODE]:
    """Two nodes of the same dynamics, the second with recorded steps."""
    field = Net(3) if dynamics is None else dynamics
    one, other = (plr.NeuralODE(field, engine="torch", compile=c, **options) for c in (False, True))  # type: ignore[arg-type]
    return one.to(device), other.to(device)


def kept(node: plr.NeuralODE) -> int:
    assert node.compiled is not None
    return sum(isinstance(f, Captured) for f in node.compiled)


def assert_same(one: plr.NeuralODE, other: plr.NeuralODE, u0: torch.Tensor) -> plr.Stats:
    """The same states, counts, regularization and gradients."""

    def run(node: plr.NeuralODE) -> tuple[plr.Solution, list[torch.Tensor]]:
        start = u0.clone().requires_grad_()
        if isinstance(node.regularizer, plr.LocalRegularizer):
            assert node.regularizer.generator is not None
            node.regularizer.generator.manual_seed(0)
        solution = node(start)
        loss = solution.u.square().sum()
        if solution.regularization is not None:
            loss = loss + solution.regularization
        return solution, list(torch.autograd.grad(loss, [start, *node.parameters()]))

    (left, by_left), (right, by_right) = run(one), run(other)
    assert left.stats == right.stats
    torch.testing.assert_close(left.u, right.u, rtol=1e-9, atol=1e-10)
    assert_close(by_right, by_left, rtol=1e-6)
    return right.stats


@pytest.mark.parametrize("solver", ["Tsit5", "BS3", "DP5", "Vern7"])
def test_recorded_once_for_all_solves(device: str, solver: str) -> None:
    one, other = pair(device, solver=solver)
    assert_same(one, other, normal(4, 3).to(device))
    assert kept(other) == 2
    with torch.no_grad():  # as an optimizer does
        for p in other.parameters():
            p.mul_(1.1)
    assert_same(one, other, normal(4, 3, seed=1).to(device))
    assert kept(other) == 2
    assert_same(one, other, normal(5, 3).to(device))
    assert kept(other) == 4


def test_layer_descriptions(device: str) -> None:
    layers = plr.TimeDependent(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3))
    node = plr.NeuralODE(layers, engine="torch").double()
    one, other = pair(device, node.dynamics)
    for seed in range(3):
        assert_same(one, other, normal(4, 3, seed=seed).to(device))
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1.1)
    assert kept(other) == 2


def test_rejected_steps(device: str) -> None:
    one, other = pair(device, dt=1.0, abstol=1e-8, reltol=1e-8)
    assert assert_same(one, other, normal(4, 3).to(device)).nreject > 0


def test_fixed_steps_of_a_method_without_an_estimate(device: str) -> None:
    assert_same(*pair(device, solver="RK4", dt=0.1), normal(4, 3).to(device))


def test_a_jump_at_a_tstop(device: str) -> None:
    class Jump(Net):
        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return super().forward(t, u) + torch.where(t < 0.4, 0.0, 3.0)

    assert_same(*pair(device, Jump(3), tstops=[0.4]), normal(4, 3).to(device))


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "backsolve"])
def test_saveat_and_every_adjoint(device: str, adjoint: plr.Adjoint) -> None:
    assert_same(*pair(device, saveat=[0.0, 0.3, 0.35, 1.0], adjoint=adjoint), normal(4, 3).to(device))


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize(
    "options", [{}, {"through_state": True}, {"gradient": "frozen"}, {"quantity": "stiffness"}]
)
def test_regularized(device: str, sampling: plr.Sampling, options: dict[str, Any]) -> None:
    regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator(), **options)
    one, other = pair(device, regularizer=regularizer)
    assert_same(one, other, normal(4, 3).to(device))
    anew = sampling == "unbiased" and "through_state" not in options  # an estimate's own function
    biased = sampling == "biased"  # the function that reverses a step with its estimate
    assert kept(other) == 2 + ((biased or anew) and "quantity" not in options)


def test_checkpoints(device: str) -> None:
    assert_same(*pair(device, checkpoints=2, abstol=1e-9, reltol=1e-9), normal(4, 3).to(device))


class Scaled(Net):
    scale: float | torch.Tensor = 1.0

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(t, u)


@pytest.mark.parametrize("value", [lambda device: 0.5, lambda device: torch.full((), 0.5, device=device)])
def test_what_the_dynamics_read_is_looked_at(
    device: str, value: Callable[[str], float | torch.Tensor]
) -> None:
    field = Scaled(3)
    one, other = pair(device, field)
    u0 = normal(4, 3).to(device)
    assert_same(one, other, u0)
    field.scale = value(device)
    assert_same(one, other, u0)
    assert kept(other) == 4


def test_what_is_recorded_in_every_solve_is_recorded_no_more(device: str) -> None:
    field = Scaled(3)
    _, other = pair(device, field)
    u0 = normal(4, 3).to(device)

    def solve_often() -> None:
        with torch.no_grad():
            for i in range(10):
                field.scale = i / 10
                other(u0)

    with pytest.warns(UserWarning, match="other memory in every solve"):
        solve_often()
    assert kept(other) == 8


def test_threads_have_each_their_own(device: str) -> None:
    one, other = pair(device)
    failed = []

    def run(seed: int) -> None:
        try:
            for _ in range(3):
                assert_same(one, other, normal(4, 3, seed=seed).to(device))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    with warnings.catch_warnings():
        if device == "cuda":  # where one thread's work can keep another's from being recorded
            warnings.filterwarnings("ignore", "compile=True: .* runs uncompiled")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


class Branching(Net):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return super().forward(t, u) * (2.0 if t > 0.5 else 1.0)


@pytest.mark.parametrize(
    "dynamics",
    [
        torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout()),
        Branching(3),
    ],
)
def test_what_can_not_be_recorded_runs_as_it_is(device: str, dynamics: torch.nn.Module) -> None:
    one, other = pair(device, dynamics.double())

    def run(node: plr.NeuralODE) -> torch.Tensor:
        torch.manual_seed(0)
        u: torch.Tensor = node(normal(4, 3).to(device)).u
        u.sum().backward()  # type: ignore[no-untyped-call]
        return u

    with pytest.warns(UserWarning, match="runs uncompiled") as said:
        u = run(other)
    assert len(said) == 1
    torch.testing.assert_close(u, run(one), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_counts_what_a_solve_computes_alone(device: str, training: bool) -> None:
    """What is recorded, looked at and compared leaves no trace in running statistics."""
    layers = plr.Chain(plr.Dense(3, 3), plr.BatchNorm(3, "tanh"), plr.Dense(3, 3))
    field = plr.NeuralODE(layers, engine="torch").double().train(training).dynamics
    one, other = pair(device, field)
    start = copy.deepcopy(field.state_dict())

    def statistics(node: plr.NeuralODE) -> dict[str, torch.Tensor]:
        field.load_state_dict(start)
        for seed in range(2):
            node(normal(4, 3, seed=seed).to(device)).u.sum().backward()
        return copy.deepcopy(field.state_dict())

    torch.testing.assert_close(statistics(other), statistics(one), rtol=1e-9, atol=1e-10)
    assert_same(one, other, normal(4, 3).to(device))
    # the gradient of a solve with fixed statistics has copies of its own, elsewhere each time
    assert kept(other) == 2 if training else kept(other) > 2


def test_the_adjoint_of_pytorchs_batch_norm_is_not_recorded(device: str) -> None:
    """It writes to its statistics in a call that is differentiated."""
    field = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).double()
    one, other = pair(device, field)
    with pytest.warns(UserWarning, match="the adjoint of steps of Tsit5 runs uncompiled"):
        assert_same(one, other, normal(4, 3).to(device))
    assert kept(other) == 1


def test_buffers_that_are_replaced(device: str) -> None:
    class Counting(Net):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__(3)
            self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            k: torch.Tensor = super().forward(t, u)
            return k

    field = Counting()
    one, other = pair(device, field)
    u = one(normal(4, 3).to(device)).u
    before = float(field.calls)
    with pytest.warns(UserWarning, match="in the place of their buffers"):
        again = other(normal(4, 3).to(device)).u
    torch.testing.assert_close(again, u, rtol=0, atol=0)
    assert float(field.calls) == 2 * before


def test_a_parameter_that_is_frozen_and_thawed(device: str) -> None:
    field = Net(3)
    one, other = pair(device, field)
    u0 = normal(4, 3).to(device)
    for frozen in ("w1", "w2", None):
        for name, p in field.named_parameters():
            p.requires_grad_(name != frozen)
        for node in (one, other):
            node.zero_grad()
            node(u0).u.sum().backward()
            gradients = {name: p.grad for name, p in field.named_parameters()}
            if node is one:
                right = gradients
        assert [name for name, g in gradients.items() if g is None] == [frozen] * (frozen is not None)
        torch.testing.assert_close(gradients, right, rtol=1e-9, atol=1e-12)


def test_an_unused_parameter_has_no_gradient(device: str) -> None:
    field = Net(3)
    field.unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    _, other = pair(device, field)
    other(normal(4, 3).to(device)).u.sum().backward()
    assert field.unused.grad is None
    assert field.w1.grad is not None


class Scale(torch.autograd.Function):
    """Of a kind that sees no substitution of its tensors."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(u, w)
        return u * w

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        u, w = ctx.saved_tensors
        return g * w, g * u


class Evading(Net):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = Scale.apply(super().forward(t, u), self.c.expand(u.shape))  # type: ignore[no-untyped-call]
        return k


def test_what_evades_substitution_is_found(device: str) -> None:
    one, other = pair(device, Evading(3))
    with pytest.warns(UserWarning, match="the adjoint of steps"):
        assert_same(one, other, normal(4, 3).to(device))
