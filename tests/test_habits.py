# mypy: disable-error-code="no-any-return, union-attr, arg-type, operator, type-var, no-untyped-call"
"""What PyTorch users write in and around dynamics: right on both engines, or an error of ours."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq

import pylocalreg as plr
from pylocalreg import checks
from pylocalreg.errors import (
    ChangedError,
    DtypeError,
    NonFiniteError,
    OptionError,
    ShapeError,
    ToleranceError,
)
from pylocalreg.observed import as_solved
from tests.conftest import Net, assert_close, normal
from tests.julia import ENGINES

TIGHT: dict[str, Any] = {"abstol": 1e-10, "reltol": 1e-10}
ADJOINTS = ["discrete", "interpolating", "backsolve", "gauss", "quadrature"]


def theirs(f: Any, u0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    u: torch.Tensor = torchdiffeq.odeint(f, u0, t, method="dopri5", atol=1e-13, rtol=1e-13)
    return u


def by_each(loss: torch.Tensor, wanted: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, wanted))


class Encoded:
    """A neural CDE's usual shape: the path is computed before the solve, and f finds it on the object."""

    def __init__(self) -> None:
        self.encoder = torch.nn.Linear(2, 3, dtype=torch.float64)
        self.net = Net(3)

    def f(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.net(t, u) * torch.cos(self.path)

    def loss(self, solve: Callable[[Any, torch.Tensor], torch.Tensor], u0: torch.Tensor) -> torch.Tensor:
        self.path = self.encoder(normal(4, 2, seed=5))
        return solve(self.f, u0).square().sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "VCABM3"])
def test_closures_bound_methods_and_paths(engine: str, adjoint: Any, solver: str) -> None:
    torch.manual_seed(0)
    model, u0 = Encoded(), normal(4, 3).requires_grad_()
    wanted = [u0, *model.net.parameters(), *model.encoder.parameters()]
    calls = 0

    def ours(f: Any, u0: torch.Tensor) -> torch.Tensor:
        nonlocal calls

        def counted(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            k: torch.Tensor = f(t, u)
            return k

        tight = 1e-10 if solver != "VCABM3" else 1e-9
        node = plr.NeuralODE(
            counted, solver=solver, engine=engine, adjoint=adjoint, abstol=tight, reltol=tight
        )
        solution = node(u0)
        assert calls == solution.stats.nfe
        return solution.u  # type: ignore[no-any-return]

    right = by_each(model.loss(lambda f, u: theirs(f, u, torch.tensor([0.0, 1.0]).double())[-1], u0), wanted)
    assert_close(by_each(model.loss(ours, u0), wanted), right, 1e-8 if solver != "VCABM3" else 1e-6)


def test_what_the_dynamics_find_in_globals_and_deeper_down() -> None:
    weight = normal(3, 3, seed=1).requires_grad_()
    deep: dict[str, Any] = {"list": [({"scale": 2 * weight},)]}

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(u @ deep["list"][0][0]["scale"])

    u0 = normal(4, 3)
    (ours,) = by_each(plr.NeuralODE(f, engine="torch", **TIGHT)(u0).u.sum(), [weight])
    deep = {"list": [({"scale": 2 * weight},)]}
    (right,) = by_each(theirs(f, u0, torch.tensor([0.0, 1.0]).double())[-1].sum(), [weight])
    assert_close([ours], [right], 1e-8)


def test_a_tensor_that_only_a_custom_function_sees() -> None:
    """It passes no function that PyTorch shows: found among what f holds, or refused."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(u, by)
            return u * by

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            u, by = ctx.saved_tensors
            return g * by, (g * u).sum(0)

    weight = normal(3).requires_grad_()
    by, u0 = 0.3 * weight, normal(4, 3)
    found = plr.NeuralODE(lambda t, u: Scale.apply(u, by), engine="torch", **TIGHT)  # type: ignore[no-untyped-call]
    (ours,) = by_each(found(u0).u.sum(), [weight])
    (right,) = by_each((u0 * torch.exp(0.3 * weight)).sum(), [weight])
    assert_close([ours], [right], 1e-8)

    class Hides:
        __slots__ = ("by",)

        def __init__(self) -> None:
            self.by = 0.3 * weight

    for named in (False, True):
        hiding = Hides()
        params = (hiding.by,) if named else ()
        node = plr.NeuralODE(
            lambda t, u, h=hiding: Scale.apply(u, h.by), engine="torch", params=params, **TIGHT
        )
        assert_close(by_each(node(u0).u.sum(), [weight]), [right], 1e-8)


def test_a_tensor_reached_at_some_times_alone() -> None:
    first, later = Net(3, seed=1), Net(3, seed=2)

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return first(t, u) if t < 0.5 else later(t, u)  # type: ignore[no-any-return]

    u0 = normal(4, 3)
    with pytest.raises(ChangedError, match="at some times alone"):
        plr.NeuralODE(f, engine="torch")(u0).u.sum().backward()
    named = plr.NeuralODE(f, engine="torch", params=tuple(later.parameters()))
    gradients = by_each(named(u0).u.sum(), [*first.parameters(), *later.parameters()])
    assert all(float(g.abs().max()) > 0 for g in gradients)


class Dropped(torch.nn.Module):
    """Dropout, as a module and as a function, and noise."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net, self.drop = kind, Net(3), torch.nn.Dropout(0.4)
        self.own = torch.Generator().manual_seed(7)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        if self.kind == "module":
            return self.net(t, self.drop(u))
        if self.kind == "function":
            return self.net(t, torch.nn.functional.dropout(u, 0.4))
        if self.kind == "own generator":
            return self.net(t, u + torch.randn(u.shape, generator=self.own, dtype=u.dtype))
        return self.net(t, u + torch.randn_like(u))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("kind", ["module", "function", "noise", "own generator"])
def test_one_draw_serves_a_whole_solve(engine: str, adjoint: Any, kind: str) -> None:
    dynamics, weight = Dropped(kind), torch.ones((), dtype=torch.float64, requires_grad=True)
    node = plr.NeuralODE(
        dynamics, engine=engine, adjoint=adjoint, regularizer=plr.LocalRegularizer(), **TIGHT
    )

    def loss(scale: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        dynamics.own.manual_seed(3)
        solution = node(scale * normal(4, 3), regularize=False)
        assert solution.stats.nreject < 5  # f is one smooth function of (t, u)
        return solution.u.square().sum()  # type: ignore[no-any-return]

    (slope,) = by_each(loss(weight), [weight])
    h = 1e-4
    with torch.no_grad():
        difference = (loss(weight + h) - loss(weight - h)) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)
    torch.manual_seed(3)
    first, second = node(normal(4, 3)), node(normal(4, 3))
    assert not torch.equal(first.u, second.u)  # solves draw anew
    first.regularization.backward()


def test_draws_that_begin_later_are_refused() -> None:
    node = plr.NeuralODE(
        lambda t, u: -u if t < 0.3 else -u + torch.randn_like(u), engine="torch", dt=0.1, adaptive=False
    )
    if threading.active_count() == 1:
        with pytest.raises(OptionError, match="random numbers"):
            node(normal(3))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_each_hook_once_a_backward(engine: str, adjoint: Any) -> None:
    net, encoder = Net(3), torch.nn.Linear(3, 3, dtype=torch.float64)
    node = plr.NeuralODE(net, engine=engine, adjoint=adjoint)
    u0, path = normal(4, 3), None
    node(u0).u.sum().backward()
    right = net.w1.grad.clone()
    net.w1.grad = None
    count = 0

    def hook(g: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return 2 * g

    net.w1.register_hook(hook)
    node(u0).u.sum().backward()
    assert count == 1
    torch.testing.assert_close(net.w1.grad, 2 * right, rtol=1e-12, atol=0)
    path = encoder(u0)
    path.retain_grad()
    path.register_hook(hook)
    count = 0
    closed = plr.NeuralODE(lambda t, u: torch.tanh(u + path), engine=engine, adjoint=adjoint)
    closed(u0).u.sum().backward()
    assert count == 1
    assert path.grad is not None
    bias = encoder.bias.grad
    torch.testing.assert_close(path.grad.sum(0), bias)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("patched", [False, True], ids=["hook", "forward"])
def test_layers_that_a_hook_or_a_patch_changes(engine: str, patched: bool) -> None:
    """Julia knows their description alone; and what the hook reaches was not there before."""
    layers = plr.dynamics.as_module(plr.Chain(plr.Dense(3, 5, "tanh"), plr.Dense(5, 3))).double()
    factor = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    node, u0 = plr.NeuralODE(layers, engine=engine), normal(4, 3)
    plain = node(u0).u
    if patched:
        own = layers.forward
        layers.forward = lambda t, u: factor * own(t, u)  # type: ignore[method-assign]
    else:
        layers.register_forward_hook(lambda module, given, k: factor * k)
    changed = node(u0).u
    changed.sum().backward()
    assert factor.grad is not None
    copy_of = plr.dynamics.as_module(plr.Chain(plr.Dense(3, 5, "tanh"), plr.Dense(5, 3))).double()
    copy_of.load_state_dict(layers.state_dict())
    expected = plr.NeuralODE(lambda t, u: factor.detach() * copy_of(t, u), engine="torch")(u0).u
    torch.testing.assert_close(changed, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(changed, plain)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_by_times(engine: str, adjoint: Any, backwards: bool) -> None:
    net, u0 = Net(3), normal(4, 3).requires_grad_()
    times = torch.tensor(
        [0.1, 0.45, 0.45, 0.9] if not backwards else [0.9, 0.5, 0.2, 0.1], dtype=torch.float64
    )
    t = times.requires_grad_()
    weights = normal(4, 4, 3, seed=9)
    node = plr.NeuralODE(net, tspan=(t[0], t[-1]), saveat=t, engine=engine, adjoint=adjoint, **TIGHT)
    ours = by_each((node(u0).u * weights).sum(), [t, u0, *net.parameters()])
    distinct = torch.stack([t[0], t[1], t[3]] if not backwards else [t[0], t[1], t[2], t[3]])
    u = theirs(net, u0, distinct)
    u = u[[0, 1, 1, 2]] if not backwards else u
    right = by_each((u * weights).sum(), [t, u0, *net.parameters()])
    if not backwards:  # torchdiffeq has no two equal times: each observation's own share
        ours[0] = ours[0].clone()
        ours[0][1] += ours[0][2]
        ours[0][2] = 0
    assert_close(ours, right, 1e-8)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_learnt_end(engine: str) -> None:
    end = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    node = plr.NeuralODE(lambda t, u: u, tspan=(0.0, end), engine=engine, **TIGHT)
    assert [name for name, _ in node.named_parameters()] == ["span.time1"]
    node(torch.ones(2, dtype=torch.float64)).u.sum().backward()
    torch.testing.assert_close(end.grad, 2 * torch.exp(end.detach()), rtol=1e-8, atol=0)
    with torch.no_grad():
        end.fill_(1.0)
    assert node.tspan == (0.0, 1.0)
    u = node(torch.ones(2, dtype=torch.float64)).u
    torch.testing.assert_close(u.detach(), torch.full((2,), 1.0, dtype=torch.float64).exp())


class InPlace(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net, self.relu = kind, Net(3), torch.nn.ReLU(inplace=True)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        if self.kind == "mul_":
            return u.mul_(-1)
        return self.net(t, self.relu(u))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["mul_", "relu"])
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "VCAB3", "RK4"])
def test_dynamics_that_write_to_their_input(engine: str, kind: str, solver: str) -> None:
    def out_of_place(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -u if kind == "mul_" else dynamics.net(t, torch.relu(u))

    dynamics, u0 = InPlace(kind), normal(4, 3).requires_grad_()
    options: dict[str, Any] = {"solver": solver, "engine": engine, "saveat": [0.0, 0.3, 1.0]}
    if solver == "RK4":
        options["dt"] = 0.1
    wanted = [u0, *(dynamics.net.parameters() if kind == "relu" else ())]
    ours, right = plr.NeuralODE(dynamics, **options)(u0), plr.NeuralODE(out_of_place, **options)(u0)
    torch.testing.assert_close(ours.u, right.u, rtol=1e-12, atol=1e-12)
    assert_close(by_each(ours.u.square().sum(), wanted), by_each(right.u.square().sum(), wanted), 1e-10)


def test_dynamics_that_begin_to_write_later() -> None:
    with pytest.raises(OptionError, match="wrote to the state"):
        plr.NeuralODE(lambda t, u: -u if t < 0.3 else u.mul_(-1), engine="torch")(normal(3))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_batch_norm_is_updated_by_the_forward_solve_alone(engine: str, adjoint: Any) -> None:
    norm = torch.nn.BatchNorm1d(3).double()
    net = torch.nn.Sequential(torch.nn.Linear(3, 3).double(), norm, torch.nn.Tanh())
    node = plr.NeuralODE(net, engine=engine, adjoint=adjoint)
    solution = node(normal(8, 3).requires_grad_())
    mean, count = norm.running_mean.clone(), int(norm.num_batches_tracked)
    assert count == solution.stats.nfe
    solution.u.sum().backward()
    assert int(norm.num_batches_tracked) == count
    assert torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (torch.nn.BatchNorm1d(3), ["BatchNorm1d in the dynamics, momentum = 0.1"]),
        (torch.nn.BatchNorm1d(3, momentum=0.001), []),
        (torch.nn.BatchNorm1d(3, momentum=None), []),
        (torch.nn.BatchNorm1d(3, track_running_stats=False), []),
        (torch.nn.BatchNorm1d(3).eval(), []),
        (plr.Chain(plr.Dense(3, 3), plr.BatchNorm(3)), []),
    ],
)
def test_running_statistics_of_the_last_calls_alone_are_said_once(
    norm: Any, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    checks._say_momentum.cache_clear()
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), norm) if isinstance(norm, torch.nn.Module) else norm
    node = plr.NeuralODE(net, engine="torch")
    for _ in range(2):
        node(torch.randn(8, 3))
    messages = [record.getMessage() for record in caplog.records]
    assert [message[: len(beginning)] for message, beginning in zip(messages, said, strict=True)] == said


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("copied", [0, as_solved.COPIED])
def test_a_solve_is_differentiated_as_it_was_solved(
    engine: str, adjoint: Any, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers and modes may change in between; parameters may not, whether copies or checksums tell."""
    monkeypatch.setattr(as_solved, "COPIED", copied)
    norm = torch.nn.BatchNorm1d(3).double().eval()
    net = torch.nn.Sequential(torch.nn.Linear(3, 3).double(), norm, torch.nn.Tanh())
    node, u0 = plr.NeuralODE(net, engine=engine, adjoint=adjoint), normal(8, 3).requires_grad_()

    def gradient(between: Callable[[], Any]) -> torch.Tensor:
        solution = node(u0)
        between()
        (by_u0,) = torch.autograd.grad(solution.u.square().sum(), u0)
        return by_u0

    right = gradient(lambda: None)
    mean = norm.running_mean
    torch.testing.assert_close(gradient(lambda: mean.add_(1)), right, rtol=1e-12, atol=0)
    mean.sub_(1)
    torch.testing.assert_close(gradient(lambda: net.train()), right, rtol=1e-12, atol=0)
    assert norm.training
    net.eval()
    weight = net[0].weight
    torch.testing.assert_close(gradient(lambda: weight.requires_grad_(False)), right, rtol=1e-12, atol=0)
    weight.requires_grad_(True)
    changes: list[Callable[[], Any]] = [
        lambda: weight.data.mul_(1.001),
        lambda: weight.data.neg_(),
        lambda: setattr(weight, "data", weight.data + 1e-12),
        lambda: torch.no_grad()(weight.mul_)(1.1),
        lambda: net.float(),
    ]
    for change in changes:
        with pytest.raises(ChangedError, match=r"changed after|written to after"):
            gradient(change)
        net.double()


@pytest.mark.parametrize("copied", [0, as_solved.COPIED])
def test_tensors_of_any_kind_are_told_from_what_they_were(
    copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_solved, "COPIED", copied)
    spectrum = torch.complex(normal(3, seed=1), normal(3, seed=2)).requires_grad_()
    node = plr.NeuralODE(lambda t, u, x: torch.tanh(u + x.real.nan_to_num().sum()), engine="torch")
    kept = as_solved.AsSolved([])
    for x in (
        spectrum,
        spectrum.conj(),
        spectrum.conj().imag,
        normal(1).requires_grad_().expand(3),
        normal(2, 3).requires_grad_().T,
        normal().requires_grad_(),
        normal(0, 3).requires_grad_(),
        torch.full((3,), torch.nan, dtype=torch.float64).requires_grad_(),
    ):
        node(normal(4, 3), inputs=x).u.sum().backward()
        kept.keep([x])
        kept.check()
        kept.tensors = (x.detach().nan_to_num() + 1,)
        kept.versions = [as_solved._version(x) for x in kept.tensors]
        if x.numel():
            with pytest.raises(ChangedError):
                kept.check()


@pytest.mark.parametrize("engine", ENGINES)
def test_layer_descriptions_are_checked_too(engine: str) -> None:
    node = plr.NeuralODE(plr.Chain(plr.Dense(3, 5, "tanh"), plr.Dense(5, 3)), engine=engine).double()
    p = node.get_parameter("dynamics.p")
    solution = node(normal(4, 3))
    p.data.mul_(2)
    with pytest.raises(ChangedError):
        solution.u.sum().backward()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_stiffness_of_constant_dynamics_is_0(engine: str, slope: float, sampling: Any) -> None:
    net = torch.nn.Linear(3, 3, dtype=torch.float64)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.constant_(net.bias, slope)
    regularizer = plr.LocalRegularizer(sampling, quantity="stiffness")
    node = plr.NeuralODE(net, engine=engine, regularizer=regularizer)
    solution = node(normal(4, 3).requires_grad_())
    assert float(solution.regularization) == 0
    gradients = torch.autograd.grad(solution.regularization, list(net.parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)


def test_an_estimate_that_is_not_finite() -> None:
    u = normal(3)
    for f, state, dt in (
        (lambda t, u: -u, u * float("nan"), 0.1),
        (lambda t, u: u / 0 * 0, u, 0.1),
        (lambda t, u: u**3, u, 1e200),
    ):
        with pytest.raises(NonFiniteError):
            plr.local_error(f, state, 0.0, dt)


def test_local_error_leaves_the_state_alone() -> None:
    u = normal(3)
    before = u.clone()
    ours = plr.local_error(lambda t, u: u.mul_(-1), u, 0.0, 0.1)
    assert torch.equal(u, before)
    torch.testing.assert_close(ours, plr.local_error(lambda t, u: -u, u, 0.0, 0.1))


def test_many_threads_ask_one_path() -> None:
    path = plr.BrownianPath(0.0, (64,), seed=0, dtype=torch.float64)
    times = torch.rand(150, generator=torch.Generator().manual_seed(0)).sort().values.tolist()
    errors: list[BaseException] = []

    def ask(order: list[float]) -> None:
        try:
            for t in order:
                path(t)
                path.dZ(0.0, t)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(times[i::10] + times[::-1],)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.times == tuple(sorted({0.0, *times}))
    steps = [path.dW(a, b) for a, b in zip(path.times, path.times[1:], strict=False)]
    torch.testing.assert_close(torch.stack(steps).sum(0), path(times[-1]))
    scaled = [dW / (b - a) ** 0.5 for dW, a, b in zip(steps, path.times, path.times[1:], strict=False)]
    assert abs(float(torch.stack(scaled).square().mean()) - 1) < 0.1


def test_a_tolerance_that_float32_rounds_away() -> None:
    node = plr.NeuralODE(lambda t, u: -u, abstol=1e-300, engine="torch")
    with pytest.raises(ToleranceError, match="abstol"):
        node(torch.ones(3))


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_dynamics_and_state_of_two_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    of_net, of_state = dtypes
    net, u0 = torch.nn.Linear(3, 3, dtype=of_net), torch.ones(2, 3, dtype=of_state)
    for dynamics in (net, lambda t, u: net(u)):
        with pytest.raises(DtypeError) as caught:
            plr.NeuralODE(dynamics, engine="torch")(u0)
        assert str(of_net) in str(caught.value)
        assert str(of_state) in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_dynamics_that_leave_pytorch(engine: str) -> None:
    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(-np.tanh(u.numpy()))

    node, u0 = plr.NeuralODE(f, engine=engine), normal(4, 3)
    right = plr.NeuralODE(lambda t, u: -torch.tanh(u), engine=engine)(u0).u
    torch.testing.assert_close(node(u0).u, right)
    with torch.no_grad():
        torch.testing.assert_close(node(u0.clone().requires_grad_()).u, right)
    with pytest.raises(OptionError, match="no gradient"):
        node(u0.requires_grad_())


@pytest.mark.parametrize("engine", ["torch"])
def test_stiff_solves_in_threads(engine: str) -> None:
    nodes = [plr.NeuralODE(Net(3, seed=i), engine=engine, solver="Rodas5P") for i in range(8)]
    u0 = normal(4, 3)
    alone = [node(u0).u.detach() for node in nodes]
    together: dict[int, torch.Tensor] = {}

    def solve(i: int) -> None:
        u = nodes[i](u0).u
        u.sum().backward()
        together[i] = u.detach()

    threads = [threading.Thread(target=solve, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(together) == list(range(8))
    assert all(torch.equal(together[i], alone[i]) for i in range(8))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_hooks_as_torchdiffeqs(adjoint: Any) -> None:
    net, u0 = Net(3), normal(4, 3).requires_grad_()
    net.w1.register_hook(lambda g: 2 * g)
    u0.register_hook(lambda g: 3 * g)
    wanted = [u0, *net.parameters()]
    ours = by_each(plr.NeuralODE(net, engine="torch", adjoint=adjoint, **TIGHT)(u0).u.square().sum(), wanted)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert_close(ours, by_each(theirs(net, u0, t)[-1].square().sum(), wanted), 1e-8)


@pytest.mark.parametrize("engine", ENGINES)
def test_scripted_dynamics(engine: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    scripted, u0 = torch.jit.script(net), normal(4, 3)
    node = plr.NeuralODE(lambda t, u: scripted(u), engine=engine, **TIGHT)
    ours = by_each(node(u0).u.square().sum(), list(scripted.parameters()))
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    right = by_each(theirs(lambda t, u: net(u), u0, t)[-1].square().sum(), list(scripted.parameters()))
    assert_close(ours, right, 1e-8)


def test_dynamics_that_give_nothing_later() -> None:
    with pytest.raises(ShapeError, match="NoneType"):
        plr.NeuralODE(lambda t, u: -u if t < 0.3 else None, engine="torch")(normal(3))
