# mypy: disable-error-code="no-any-return, union-attr, arg-type, operator, no-untyped-call"
"""What of PyTorch works with a node, one test a row of docs/pytorch.md: right, or refused in one line."""

import copy
import importlib
import io
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchdiffeq
from torch.nn.utils import parametrizations, parametrize
from torch.utils import _pytree as pytree

import pylocalreg as plr
from pylocalreg import precision
from pylocalreg.errors import DoubleBackwardError, LocalRegError, OptionError
from tests.conftest import Net, assert_close, normal
from tests.julia import ENGINES

F64 = torch.float64


class Classifier(torch.nn.Module):
    """Something before the solve and something behind it."""

    def __init__(self, dynamics: Any = None, **options: Any) -> None:
        super().__init__()
        self.before = torch.nn.Linear(3, 3, dtype=F64)
        self.node = plr.NeuralODE(dynamics or Net(3), **({"engine": "torch"} | options))
        self.behind = torch.nn.Linear(3, 2, dtype=F64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.node(self.before(x)).u)


def gradients_of(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


# -- compiling, tracing, exporting -----------------------------------------------------------------------


def test_compile_breaks_the_graph_once() -> None:
    model, x = Classifier(), normal(4, 3)
    right = gradients_of(model, x)
    compiled = torch.compile(model, backend="aot_eager")
    assert_close(gradients_of(compiled, x), right, 1e-12)
    torch._dynamo.reset()
    assert torch._dynamo.explain(model)(x).graph_break_count == 1


def test_export_and_trace_are_refused() -> None:
    model, x = Classifier(), normal(4, 3)
    with pytest.raises(OptionError, match=r"torch\.export"):
        torch.export.export(model, (x,), strict=False)
    with pytest.raises(OptionError, match=r"jit\.trace"):
        torch.jit.trace(model, (x,))


# -- torch.func ------------------------------------------------------------------------------------------


def functional(model: torch.nn.Module) -> Any:
    return lambda params, x: torch.func.functional_call(model, params, (x,)).square().sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("kind", ["module", "closure", "layers"])
def test_func_grad(engine: str, adjoint: Any, kind: str) -> None:
    net = Net(3)
    dynamics = {
        "module": net,
        "closure": lambda t, u: net(t, u),
        "layers": plr.Chain(plr.Dense(3, 3, "tanh")),
    }[kind]
    model, x = Classifier(dynamics, engine=engine, adjoint=adjoint).double(), normal(4, 3)
    if kind == "closure":
        model.net = net
    params = dict(model.named_parameters())
    ours = torch.func.grad(functional(model))(params, x)
    right = torch.autograd.grad(model(x).square().sum(), list(params.values()), allow_unused=True)
    for name, theirs in zip(params, right, strict=True):
        theirs = torch.zeros_like(ours[name]) if theirs is None else theirs
        torch.testing.assert_close(ours[name], theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["module", "layers"])
def test_per_sample_gradients(engine: str, kind: str) -> None:
    dynamics = {"module": Net(3), "layers": plr.Chain(plr.Dense(3, 3, "tanh"))}[kind]
    model, x = Classifier(dynamics, engine=engine).double(), normal(4, 3)
    params = dict(model.named_parameters())
    ours = torch.func.vmap(torch.func.grad(functional(model)), in_dims=(None, 0))(params, x.unsqueeze(1))
    for i in range(4):
        right = torch.autograd.grad(model(x[i : i + 1]).square().sum(), list(params.values()))
        assert_close([ours[name][i] for name in params], list(right), 1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_vmap_solves_sample_by_sample(engine: str) -> None:
    node, x = plr.NeuralODE(Net(3), engine=engine), normal(5, 3)
    solution = torch.func.vmap(lambda u: node(u, regularize=False))(x)
    alone = [node(u) for u in x]
    torch.testing.assert_close(solution.u, torch.stack([s.u for s in alone]), rtol=1e-14, atol=0)
    assert solution.stats.nfe == sum(s.stats.nfe for s in alone)
    assert len(solution.steps.t) == sum(len(s.steps.t) for s in alone)
    stacked = torch.func.stack_module_state([Net(3, seed=i) for i in range(3)])[0]
    template = plr.NeuralODE(Net(3), engine=engine)

    def ensemble(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        lent = {f"dynamics.{name}": p for name, p in params.items()}
        return torch.func.functional_call(template, lent, (x,)).u

    every = torch.func.vmap(ensemble, in_dims=(0, None))(stacked, x)
    for i in range(3):
        torch.testing.assert_close(every[i], plr.NeuralODE(Net(3, seed=i), engine=engine)(x).u)


@pytest.mark.parametrize("engine", ENGINES)
def test_jacrev(engine: str) -> None:
    node, x = plr.NeuralODE(Net(3), engine=engine), normal(3)
    ours = torch.func.jacrev(lambda u: node(u).u)(x)
    right = torch.autograd.functional.jacobian(lambda u: node(u).u, x)
    torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-14)


def test_what_func_does_not_do_is_refused() -> None:
    regularized = plr.NeuralODE(Net(3), engine="torch", regularizer=plr.LocalRegularizer())
    node, x = plr.NeuralODE(Net(3), engine="torch"), normal(4, 3)
    with pytest.raises(OptionError, match="vmap"):
        torch.func.vmap(lambda u: regularized(u).u)(x)
    with pytest.raises(OptionError, match="forward-mode"):
        torch.func.jacfwd(lambda u: node(u).u)(x)
    with pytest.raises(OptionError, match="forward-mode"):
        torch.func.jvp(lambda u: node(u).u, (x,), (x,))
    with pytest.raises(DoubleBackwardError, match="create_graph"):
        torch.func.grad(lambda u: torch.func.grad(lambda v: node(v).u.sum())(u).sum())(x)
    sde = plr.NeuralSDE(Net(3), Net(3), engine="torch")
    with pytest.raises(OptionError, match="trajectories"):
        torch.func.vmap(lambda u: sde(u).u)(x)


def test_func_grad_of_a_regularized_solve() -> None:
    node = plr.NeuralODE(
        Net(3), engine="torch", regularizer=plr.LocalRegularizer(generator=torch.Generator().manual_seed(0))
    )
    params, x = dict(node.named_parameters()), normal(4, 3)

    def value(params: dict[str, torch.Tensor]) -> torch.Tensor:
        node.regularizer.generator.manual_seed(0)
        return torch.func.functional_call(node, params, (x,)).regularization

    ours = torch.func.grad(value)(params)
    right = torch.autograd.grad(value(params), list(params.values()))
    assert_close(list(ours.values()), list(right), 1e-10)


# -- precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
def test_autocast_ends_at_the_door(engine: str, adjoint: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As Lightning's bf16-mixed runs a model: the state arrives in bfloat16."""
    precision._say_once.cache_clear()
    torch.manual_seed(0)
    encoder, net = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    regularizer = plr.LocalRegularizer("biased")
    node = plr.NeuralODE(net, engine=engine, adjoint=adjoint, regularizer=regularizer)
    seen = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with caplog.at_level(logging.WARNING, "pylocalreg"), torch.autocast("cpu", dtype=torch.bfloat16):
        u0 = encoder(torch.ones(2, 3))
        assert u0.dtype == torch.bfloat16
        solution = node(u0)
        node(u0)
        loss = solution.u.square().mean() + solution.regularization
        loss.backward()  # inside autocast, where replays could lose their precision too
    assert set(seen) == {torch.float32}
    assert solution.u.dtype == torch.float32
    assert sum("autocast" in record.message for record in caplog.records) == 1
    outside = node(u0.detach().float())
    torch.testing.assert_close(solution.u, outside.u, rtol=0, atol=0)
    assert encoder.weight.grad is not None


# -- float32 that a GPU multiplies as TF32 ---------------------------------------------------------------

CONVOLUTION = torch.nn.Conv2d(2, 2, 3, padding=1)
GPU = torch.device("cuda")


@pytest.fixture
def tf32() -> Iterator[None]:
    """Whatever a test allows, the process is left as it was."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    precision._say_rounded.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(
    ("convolutions", "matrices", "said"),
    [(True, False, ["cudnn"]), (True, True, ["cuda.matmul", "cudnn"]), (False, False, [])],
)
def test_tf32_is_said_once(
    convolutions: bool, matrices: bool, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, matrices
    for reltol in (1e-4, 1e-4, 1e-2):
        precision.check_products(reltol, GPU, torch.float32, lambda: True)
    precision.check_products(1e-4, GPU, F64, lambda: True)
    precision.check_products(1e-4, torch.device("cpu"), torch.float32, lambda: True)
    messages = [record.getMessage() for record in caplog.records]
    named = [name for message in messages for name in ("cuda.matmul", "cudnn") if name in message]
    assert named == said
    assert all("reltol = 0.0001 is finer than TF32 resolves (0.00098)" in message for message in messages)


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_on_cpus_is_said_once(
    has_it: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    cpu = torch.device("cpu")
    for asked in ("highest", "medium", "medium"):
        torch.set_float32_matmul_precision(asked)
        precision.check_products(1e-3, cpu, torch.float32, lambda: False)
        precision.check_products(1e-3, cpu, F64, lambda: False)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == int(has_it)
    assert all("bfloat16 resolves (0.0039)" in message and "highest" in message for message in said)


@pytest.mark.usefixtures("tf32")
def test_tf32_of_convolutions_matters_where_there_are_some(caplog: pytest.LogCaptureFixture) -> None:
    torch.backends.cudnn.allow_tf32 = True
    precision.check_products(1e-4, GPU, torch.float32, lambda: False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("dynamics", "convolves"),
    [
        (torch.nn.Sequential(torch.nn.Tanh(), CONVOLUTION), True),
        (plr.TimeDependent(plr.Conv(2, 2)), True),
        (plr.Chain(plr.GroupNorm(2, 1)), False),
        (torch.nn.Tanh(), False),
        (lambda t, u: CONVOLUTION(u), False),  # of a function nothing is known
    ],
)
def test_what_a_solve_asks_of_products(
    dynamics: Any, convolves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(reltol: float, device: torch.device, dtype: torch.dtype, of: Callable[[], bool]) -> None:
        asked.append((reltol, device.type, dtype, of()))

    for module in ("neural_de", "local_error"):
        monkeypatch.setattr(importlib.import_module(f"pylocalreg.{module}"), "check_products", note)
    node = plr.NeuralODE(dynamics, reltol=1e-2, abstol=1e-2, engine="torch")
    u0 = torch.ones(1, 2, 3, 3)
    with torch.no_grad():
        node(u0)
        plr.local_error(node.dynamics, u0, 0.0, 0.1, abstol=1e-2, reltol=1e-2)
    assert asked == [(1e-2, "cpu", torch.float32, convolves)] * 2


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch < 2.9 has one name for it")
def test_tf32_by_its_new_names() -> None:
    """A process of its own: what was set by them can not be read, or set back, by the old ones."""
    code = """
import torch
from pylocalreg import precision
for conv, matmul in (("ieee", "tf32"), ("tf32", "ieee")):
    torch.backends.cudnn.conv.fp32_precision = conv
    torch.backends.cuda.matmul.fp32_precision = matmul
    print(precision._allowed(torch.backends.cudnn), precision._allowed(torch.backends.cuda.matmul))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True", "True", "False"]


# -- solutions as pytrees, and what passes them ----------------------------------------------------------


@pytest.mark.parametrize("regularized", [False, True])
def test_a_solution_is_a_pytree(regularized: bool) -> None:
    regularizer = plr.LocalRegularizer() if regularized else None
    node = plr.NeuralODE(Net(3), engine="torch", regularizer=regularizer)
    solution = node(normal(4, 3), saveat=[0.5, 1.0])
    leaves, spec = pytree.tree_flatten(solution)
    assert [leaf is part for leaf, part in zip(leaves, (solution.u, solution.regularization), strict=False)]
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is plr.Solution
    assert again.stats == solution.stats
    assert again.steps is solution.steps
    doubled = pytree.tree_map(lambda x: 2 * x if isinstance(x, torch.Tensor) else x, solution)
    torch.testing.assert_close(doubled.u, 2 * solution.u)
    if regularized:
        torch.testing.assert_close(doubled.regularization, 2 * solution.regularization)
    parts = plr.NeuralODE(lambda t, u: {"x": -u["x"]}, engine="torch")({"x": normal(2)})
    torch.testing.assert_close(pytree.tree_map(torch.neg, parts).u["x"], -parts.u["x"])


def test_data_parallel_gathers_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU DataParallel calls its module; with several it gathers what the replicas gave."""
    regularizer = plr.LocalRegularizer()
    node = plr.NeuralODE(Net(3), engine="torch", regularizer=regularizer)
    assert torch.nn.DataParallel(node)(normal(4, 3)).u.shape == (4, 3)
    node.__dict__["_is_replica"] = True
    parts = [node(normal(4, 3, seed=seed)) for seed in range(2)]

    def gather(device: Any, dim: int, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.stack(tensors) if tensors[0].dim() == 0 else torch.cat(tensors, dim)

    monkeypatch.setattr(torch.nn.parallel._functions.Gather, "apply", gather)
    from torch.nn.parallel.scatter_gather import gather as gather_outputs

    whole = gather_outputs(parts, 0)
    torch.testing.assert_close(whole.u, torch.cat([part.u for part in parts]))
    mean = sum(part.regularization for part in parts) / 2
    torch.testing.assert_close(whole.regularization, mean)
    assert whole.stats.nfe == sum(part.stats.nfe for part in parts)
    assert len(whole.steps.t) == sum(len(part.steps.t) for part in parts)
    assert type(whole) is plr.Solution


def test_ddp_and_fsdp_find_the_tensors_of_a_solution() -> None:
    from torch.nn.parallel.distributed import _find_tensors

    solution = plr.NeuralODE(Net(3), engine="torch", regularizer=plr.LocalRegularizer())(normal(4, 3))
    found = list(_find_tensors(solution))
    assert any(x is solution.u for x in found)
    assert any(x is solution.regularization for x in found)


# -- second derivatives ----------------------------------------------------------------------------------


def theirs(f: Any, u0: torch.Tensor) -> torch.Tensor:
    t = torch.tensor([0.0, 1.0], dtype=F64)
    u: torch.Tensor = torchdiffeq.odeint(f, u0, t, method="dopri5", atol=1e-13, rtol=1e-13)[-1]
    return u


@pytest.mark.parametrize("hidden", [False, True])
def test_second_derivatives_as_torchdiffeqs(hidden: bool) -> None:
    net, u0, weight = Net(3), normal(4, 3).requires_grad_(), normal(4, 3, seed=2)
    f = (lambda t, u: net(t, u)) if hidden else net
    node = plr.NeuralODE(f, engine="torch", abstol=1e-11, reltol=1e-11)
    wanted = [u0, *net.parameters()]

    def second(u: torch.Tensor) -> list[torch.Tensor]:
        (by_u0,) = torch.autograd.grad((u * weight).sum(), u0, create_graph=True)
        penalty = by_u0.square().sum()
        return list(torch.autograd.grad(penalty + u.square().sum(), wanted))

    assert_close(second(node(u0).u), second(theirs(net, u0)), 1e-8)


@pytest.mark.parametrize("solver", ["Tsit5", "BS3", "VCABM3", "Rosenbrock23"])
def test_gradgradcheck(solver: str) -> None:
    net, u0 = Net(2, hidden=2), normal(1, 2).requires_grad_()
    node = plr.NeuralODE(net, engine="torch", solver=solver, dt=0.25, adaptive=False, saveat=[0.3, 1.0])

    def states(u0: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        named = {f"dynamics.{name}": p for (name, _), p in zip(net.named_parameters(), params, strict=True)}
        return torch.func.functional_call(node, named, (u0,)).u

    inputs = (u0, *(p.detach().clone().requires_grad_() for p in net.parameters()))
    assert torch.autograd.gradcheck(states, inputs)
    assert torch.autograd.gradgradcheck(states, inputs)


def test_gradgradcheck_of_an_sde_and_of_a_regularizer() -> None:
    u0 = normal(2, 2).requires_grad_()
    sde = plr.NeuralSDE(Net(2), Net(2, seed=1), solver="SOSRI2", engine="torch", dt=0.25, adaptive=False)
    path = sde(u0).noise
    assert torch.autograd.gradgradcheck(lambda u: sde(u, noise=path).u, (u0,))
    global_error = plr.NeuralODE(Net(2), engine="torch", regularizer=plr.GlobalRegularizer("error"))
    (first,) = torch.autograd.grad(global_error(u0).regularization, u0, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [u0, *global_error.parameters()])
    assert all(bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0 for g in second)


def test_third_derivatives() -> None:
    u0 = torch.tensor([0.7], dtype=F64, requires_grad=True)
    node = plr.NeuralODE(lambda t, u: -(u**2), engine="torch", abstol=1e-12, reltol=1e-12)
    value, exact = node(u0).u, u0 / (1 + u0)
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), u0, create_graph=True)
        (exact,) = torch.autograd.grad(exact.sum(), u0, create_graph=True)
        torch.testing.assert_close(value, exact, rtol=1e-8, atol=0)


def test_hooks_and_second_derivatives() -> None:
    net, u0 = Net(2), normal(3, 2).requires_grad_()
    node = plr.NeuralODE(net, engine="torch")
    count = 0

    def hook(g: torch.Tensor) -> None:
        nonlocal count
        count += 1

    net.w1.register_hook(hook)
    (by_u0,) = torch.autograd.grad(node(u0).u.square().sum(), u0, create_graph=True)
    count = 0
    by_u0.square().sum().backward()
    assert count == 1


# -- modules ---------------------------------------------------------------------------------------------


def test_checkpoint_sequential() -> None:
    class Solved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.node = plr.NeuralODE(Net(3), engine="torch")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.node(x).u

    model, x = torch.nn.Sequential(Solved(), torch.nn.Linear(3, 3, dtype=F64), Solved()), normal(4, 3)
    x.requires_grad_()
    right = gradients_of(model, x)
    output = torch.utils.checkpoint.checkpoint_sequential(model, 3, x, use_reentrant=False)
    assert_close(list(torch.autograd.grad(output.square().sum(), list(model.parameters()))), right, 1e-12)


def test_deepcopy_pickle_and_state_dict() -> None:
    model, x = Classifier(regularizer=plr.LocalRegularizer("biased")), normal(4, 3)
    right = gradients_of(model, x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    fresh = Classifier(Net(3, seed=5))
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert_close(gradients_of(other, x), right, 1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shared", ["parametrized", "tied", "layers"])
def test_parametrizations_and_weight_sharing(engine: str, shared: str) -> None:
    if shared == "layers":
        node = plr.NeuralODE(plr.Chain(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3)), engine=engine).double()

        class Doubled(torch.nn.Module):
            def forward(self, p: torch.Tensor) -> torch.Tensor:
                return 2 * p

        parametrize.register_parametrization(node.dynamics, "p", Doubled())
        plain = plr.NeuralODE(plr.Chain(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3)), engine=engine).double()
        with torch.no_grad():
            plain.get_parameter("dynamics.p").copy_(node.dynamics.p)
        ours, right = gradients_of(Solution(node), normal(4, 3)), gradients_of(Solution(plain), normal(4, 3))
        assert_close(ours, [2 * g for g in right], 1e-10)
        for p in node.parameters():  # and again, with another value at what may be the same address
            p.data.mul_(0.5)
        with torch.no_grad():
            plain.get_parameter("dynamics.p").mul_(0.5)
        assert_close(
            gradients_of(Solution(node), normal(4, 3)),
            [2 * g for g in gradients_of(Solution(plain), normal(4, 3))],
            1e-10,
        )
        return
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)).double()
    if shared == "tied":
        net[2].weight = net[0].weight
    else:
        parametrizations.weight_norm(net[0])
        parametrizations.spectral_norm(net[2]).eval()
    node = plr.NeuralODE(net, engine=engine, abstol=1e-10, reltol=1e-10)
    x = normal(4, 3)
    wanted = list(net.parameters())
    ours = list(torch.autograd.grad(node(x).u.square().sum(), wanted))
    right = list(torch.autograd.grad(theirs(lambda t, u: net(u), x).square().sum(), wanted))
    assert_close(ours, right, 1e-8)


class Solution(torch.nn.Module):
    """A node that gives its state."""

    def __init__(self, node: torch.nn.Module) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.node(x).u


def test_a_cached_parametrization_is_right_or_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()).double()
    parametrizations.weight_norm(net[0])
    node = plr.NeuralODE(net, engine="torch")
    wanted, x = list(net.parameters()), normal(4, 3)
    right = torch.autograd.grad(node(x).u.sum(), wanted)
    with parametrize.cached():
        try:
            ours = torch.autograd.grad(node(x).u.sum(), wanted)
        except LocalRegError:
            return
    assert_close(list(ours), list(right), 1e-10)


def test_forward_mode_in_the_dynamics() -> None:
    """Dynamics may use torch.func and torch.autograd.grad themselves: a Hamiltonian's, say."""
    H = Net(2)

    def hamiltonian(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            v = u if u.requires_grad else u.detach().requires_grad_()
            (by_u,) = torch.autograd.grad(H(t, v).square().sum(), v, create_graph=torch.is_grad_enabled())
        return torch.stack([by_u[..., 1], -by_u[..., 0]], -1)

    def by_func(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        by_u = torch.func.grad(lambda v: H(t, v).square().sum())(u)
        return torch.stack([by_u[..., 1], -by_u[..., 0]], -1)

    u0, wanted = normal(3, 2), list(H.parameters())
    right = torch.autograd.grad(theirs(by_func, u0).square().sum(), wanted)
    for f in (hamiltonian, by_func):
        node = plr.NeuralODE(f, engine="torch", abstol=1e-10, reltol=1e-10)
        assert_close(list(torch.autograd.grad(node(u0).u.square().sum(), wanted)), list(right), 1e-8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "dynamics",
    [
        torch.nn.Linear(3, 3),
        torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)),
        plr.Dense(3, 3, "tanh"),
        lambda u: -u,
        F.silu,
    ],
)
def test_dynamics_of_the_state_alone(engine: str, dynamics: Any) -> None:
    if dynamics is F.silu:
        with pytest.raises(OptionError, match="lambda t, u"):
            plr.NeuralODE(dynamics, engine=engine)
        return
    node, x = plr.NeuralODE(dynamics, engine=engine), torch.ones(2, 3)
    f = node.dynamics if isinstance(dynamics, plr.Dense) else lambda t, u: dynamics(u)
    torch.testing.assert_close(node(x).u, plr.NeuralODE(f, engine=engine)(x).u)
