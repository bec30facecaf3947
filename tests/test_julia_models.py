"""Models written in Julia: as plr's own layers, gradients against finite differences, and refusals."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import (
    DeviceError,
    DoubleBackwardError,
    DtypeError,
    EngineUnavailableError,
    OptionError,
    ShapeError,
)
from pylocalreg.julia.models import Handle, JuliaModel, Made
from tests.golden import distance
from tests.julia import module_of, needs_julia, without_julia

EXAMPLES = Path(__file__).parents[1] / "examples"
LOTKA = EXAMPLES / "lotka_volterra.jl"
RATES = {"birth": 1.5, "hunt": 1.0, "death": 3.0, "gain": 0.8}


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(p: torch.Tensor | None, **more: Any) -> JuliaModel:
    """A model as Julia would have made it, without Julia."""
    return JuliaModel(Made(Handle(None), p, (("weight", 1, (3, 2)), ("bias", 7, (3,))), **more))


def differences(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, h: float = 1e-6) -> torch.Tensor:
    """The gradient of a scalar function, by central differences."""
    by_x = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = h
        by_x.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * h)
    return by_x


# ---- without Julia ----


def test_hooks_that_julia_would_pass_by_are_refused() -> None:
    model = named(None)
    model.register_forward_hook(lambda module, given, k: 2 * k)
    with pytest.raises(OptionError, match="hooks"):
        model.check(normal(2))


@without_julia
@pytest.mark.parametrize("make", [plr.julia.lux, plr.julia.function])
def test_without_julia_it_says_so(make: Any) -> None:
    with pytest.raises(EngineUnavailableError):
        make("Dense(2 => 2)")


def test_the_embedded_engine_refuses_them() -> None:
    with pytest.raises(OptionError, match="written in Julia"):
        plr.NeuralODE(named(torch.zeros(9)), engine="torch")
    with pytest.raises(OptionError, match="written in Julia"):
        plr.NeuralSDE(lambda t, u: -u, named(torch.zeros(9)), engine="torch")


def test_additive_noise_refuses_them() -> None:
    with pytest.raises(OptionError, match="noise='additive'"):
        plr.NeuralSDE(lambda t, u: -u, named(None), noise="additive", engine="torch")


@pytest.mark.parametrize("make", [plr.julia.lux, plr.julia.function])
def test_sources(make: Any) -> None:
    with pytest.raises(OptionError, match="is a int: give Julia code"):
        make(3)
    with pytest.raises(OptionError, match="does not exist"):
        make("f", file="missing.jl")


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**63])
def test_seeds(seed: Any) -> None:
    with pytest.raises(OptionError, match="seed = "):
        plr.julia.lux("Dense(2 => 2)", seed=seed)


@pytest.mark.parametrize("p", ["abc", {1: 2.0}, {"a": object()}, [[1.0], [1.0, 2.0]]])
def test_parameters_are_numbers(p: Any) -> None:
    with pytest.raises(OptionError, match="p "):
        plr.julia.function("f", p)


def test_parameters_are_floating_point() -> None:
    with pytest.raises(DtypeError, match="int64"):
        plr.julia.function("f", {"a": torch.tensor([1, 2])})


def test_in_place_is_a_flag() -> None:
    with pytest.raises(OptionError, match="in_place"):
        plr.julia.function("f", in_place=1)  # type: ignore[arg-type]


def test_views_by_name() -> None:
    model = named(torch.arange(9.0))
    views = model.named_views()
    assert {name: tuple(x.shape) for name, x in views.items()} == {"weight": (2, 3), "bias": (3,)}
    with torch.no_grad():
        views["bias"].zero_()
    assert model.p is not None
    assert model.p[6:].eq(0).all()
    assert [name for name, _ in model.named_parameters()] == ["p"]
    assert "weight" in repr(model)
    assert named(None).named_views() == {}


def test_states_that_do_not_fit() -> None:
    model = named(torch.zeros(9))
    for u, error in (
        ((torch.zeros(3),), ShapeError),
        (torch.zeros(3, dtype=torch.float64), DtypeError),
        (torch.zeros(3, dtype=torch.int64), DtypeError),
        (torch.zeros(3, device="meta"), DeviceError),
    ):
        with pytest.raises(error):
            model(0.0, u)
    with pytest.raises(OptionError, match="inputs"):
        model(0.0, torch.zeros(3), torch.zeros(1))


def test_large_functions_in_place_have_no_gradient() -> None:
    model = named(torch.zeros(9), in_place=True, is_function=True)
    with pytest.raises(OptionError, match="out of place"):
        model(0.0, torch.zeros(1000))
    with torch.no_grad():
        model.check(torch.zeros(1000))


def test_copies_share_the_model_and_are_not_pickled() -> None:
    model = named(torch.zeros(9), state=torch.ones(2))
    other = copy.deepcopy(model)
    assert other.made.handle is model.made.handle
    assert other.p is not model.p
    assert set(other.state_dict()) == {"p", "state"}
    with pytest.raises(OptionError, match="state_dict"):
        pickle.dumps(model)


def test_to_lux_of_what_is_none() -> None:
    for module in (torch.nn.Linear(2, 2), named(None, is_function=True)):
        with pytest.raises(OptionError, match="no Lux model"):
            plr.julia.to_lux(module)


def test_the_embedded_engine_has_no_julia_solution() -> None:
    solution = plr.NeuralODE(plr.Dense(2, 2), engine="torch")(torch.zeros(2))
    with pytest.raises(OptionError, match="engine='julia'"):
        _ = solution.julia


# ---- with Julia ----


CHAINS = {
    "Chain": plr.Chain(plr.Dense(3, 7, "tanh"), plr.Dense(7, 5, "sigmoid"), plr.Dense(5, 3)),
    "batchnorm": plr.Chain(plr.Dense(3, 6), plr.BatchNorm(6, "tanh", momentum=0.1), plr.Dense(6, 3)),
    "conv": plr.Chain(plr.Conv(2, 4, 3, "tanh"), plr.GroupNorm(4, 2), plr.Conv(4, 2, 3)),
}
CODE = {
    "Chain": "Chain(Dense(3 => 7, tanh), Dense(7 => 5, sigmoid), Dense(5 => 3))",
    "batchnorm": "Chain(Dense(3 => 6), BatchNorm(6, tanh; epsilon = 1e-5, momentum = 0.1), Dense(6 => 3))",
    "conv": "Chain(Conv((3, 3), 2 => 4, tanh; pad = SamePad(), cross_correlation = true), "
    "GroupNorm(4, 2; epsilon = 1e-5), Conv((3, 3), 4 => 2; pad = SamePad(), cross_correlation = true))",
}
SHAPES = {"Chain": (5, 3), "batchnorm": (6, 3), "conv": (2, 2, 4, 4)}


def pair(name: str) -> tuple[torch.nn.Module, JuliaModel]:
    ours = module_of(CHAINS[name], torch.float64)
    theirs = plr.julia.lux(CODE[name], seed=0).double()
    with torch.no_grad():
        assert theirs.p is not None
        theirs.p.copy_(ours.p)
    return ours, theirs


@needs_julia
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("regularized", [False, True])
def test_lux_is_the_same_as_layers(name: str, adjoint: plr.Adjoint, regularized: bool) -> None:
    """To rounding; an estimate is the small rest of a large sum, and so is less sharp."""
    bound = 1e-6 if regularized else 1e-10
    results = []
    for module in pair(name):
        node = plr.NeuralODE(
            module,
            engine="julia",
            abstol=1e-8,
            reltol=1e-8,
            adjoint=adjoint,
            regularizer=plr.LocalRegularizer("biased", generator=torch.Generator().manual_seed(0)),
        )
        u0 = normal(*SHAPES[name]).requires_grad_()
        solution = node(u0, saveat=[0.3, 1.0], regularize=regularized)
        loss = solution.u.square().sum()
        if regularized:
            loss = loss + 10 * solution.regularization
        grads = torch.autograd.grad(loss, [u0, *node.parameters()])
        results.append((solution, grads, dict(module.named_buffers())))
    (ours, our_grads, our_buffers), (theirs, their_grads, their_buffers) = results
    assert theirs.stats == ours.stats
    assert distance(theirs.u.detach(), ours.u.detach()) < 1e-10
    for one, other in zip(our_grads, their_grads, strict=True):
        assert distance(other, one) < bound
    if our_buffers:
        assert distance(their_buffers["state"], torch.cat(list(our_buffers.values()))) < 1e-10
        assert set(theirs_names(name)) == {"layer_2.running_mean", "layer_2.running_var"}


def theirs_names(name: str) -> dict[str, torch.Tensor]:
    return plr.julia.lux(CODE[name], seed=0).named_states()


@needs_julia
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("training", [True, False])
def test_lux_alone(name: str, training: bool) -> None:
    results = []
    for module in pair(name):
        module.train(training)
        u = normal(*SHAPES[name]).requires_grad_()
        k = module(torch.tensor(0.5, dtype=torch.float64), u)
        (by_u, by_p) = torch.autograd.grad(k.square().sum(), [u, *module.parameters()])
        with torch.no_grad():
            again = module(torch.tensor(0.5, dtype=torch.float64), u)
        assert distance(again, k.detach()) < 1e-14
        results.append((k.detach(), by_u, by_p))
    for one, other in zip(*results, strict=True):
        assert distance(other, one) < 1e-10


@needs_julia
def test_a_timed_lux_model() -> None:
    timed = plr.julia.lux("Chain(Dense(4 => 5, tanh), Dense(5 => 3))", seed=1, timed=True).double()
    plain = plr.julia.lux("Chain(Dense(4 => 5, tanh), Dense(5 => 3))", seed=1).double()
    u, t = normal(6, 3).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    k = timed(t, u)
    (by_t,) = torch.autograd.grad(k.sum(), t)
    with torch.no_grad():
        padded = torch.cat([u, torch.zeros(6, 1, dtype=torch.float64)], dim=1)
    assert timed.p is not None
    weight, bias = (timed.named_views()[f"layer_1.{name}"] for name in ("weight", "bias"))
    hidden = torch.tanh(padded @ weight + bias + 0.3 * weight[3])
    expected = hidden @ timed.named_views()["layer_2.weight"] + timed.named_views()["layer_2.bias"]
    assert distance(k.detach(), expected.detach()) < 1e-13
    h = 1e-6
    with torch.no_grad():
        slope = (timed(0.3 + h, u).sum() - timed(0.3 - h, u).sum()) / (2 * h)
    assert abs(float(by_t - slope)) < 1e-7
    assert torch.equal(plain.p, timed.p)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        plain(0.3, u)


@needs_julia
@pytest.mark.parametrize("name", ["lotka_volterra", "lotka_volterra!"])
@pytest.mark.parametrize("shape", [(2,), (3, 2)])
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "gauss"])
def test_functions_have_right_gradients(name: str, shape: tuple[int, ...], adjoint: plr.Adjoint) -> None:
    model = plr.julia.function(name, RATES, file=LOTKA).double()
    assert {name: x.item() for name, x in model.named_views().items()} == pytest.approx(RATES)
    assert model.made.in_place == name.endswith("!")
    node = plr.NeuralODE(model, engine="julia", abstol=1e-11, reltol=1e-11, adjoint=adjoint)
    u0 = (1 + normal(*shape).abs() / 4).requires_grad_()
    node(u0).u.square().sum().backward()

    def loss(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            assert model.p is not None
            kept = model.p.clone()
            model.p.copy_(p)
            value: torch.Tensor = node(u).u.square().sum()
            model.p.copy_(kept)
        return value

    assert model.p is not None
    p, u = model.p.detach().clone(), u0.detach()
    assert model.p.grad is not None
    assert u0.grad is not None
    assert distance(model.p.grad, differences(lambda x: loss(x, u), p)) < 1e-6
    assert distance(u0.grad, differences(lambda x: loss(p, x), u)) < 1e-6


@needs_julia
@pytest.mark.parametrize("name", ["lotka_volterra", "lotka_volterra!"])
def test_functions_under_stiff_solvers(name: str) -> None:
    grads = []
    for solver in ("Rodas5P", "Vern7"):
        model = plr.julia.function(name, RATES, file=LOTKA).double()
        node = plr.NeuralODE(
            model, engine="julia", solver=solver, abstol=1e-10, reltol=1e-10, adjoint="interpolating"
        )
        node(torch.tensor([1.0, 1.2], dtype=torch.float64)).u.square().sum().backward()
        assert model.p is not None
        assert model.p.grad is not None
        grads.append(model.p.grad)
    assert distance(grads[0], grads[1]) < 1e-7


@needs_julia
def test_lux_under_a_stiff_solver() -> None:
    ours, theirs = pair("Chain")
    ends = []
    for module in (ours, theirs):
        node = plr.NeuralODE(module, engine="julia", solver="Rodas5P", adjoint="interpolating")
        with torch.no_grad():
            ends.append(node(normal(2, 3)))
    assert ends[0].stats.naccept == ends[1].stats.naccept
    assert distance(ends[1].u, ends[0].u) < 1e-9


@needs_julia
def test_sdes_with_drift_and_diffusion_in_julia() -> None:
    results = []
    drift, diffusion = plr.Chain(plr.Dense(3, 5, "tanh"), plr.Dense(5, 3)), plr.Chain(plr.Dense(3, 3))
    for written in (False, True):
        sides: list[Any] = [module_of(drift, torch.float64), module_of(diffusion, torch.float64, seed=1)]
        if written:
            codes = "Chain(Dense(3 => 5, tanh), Dense(5 => 3))", "Dense(3 => 3)"
            for i, code in enumerate(codes):
                other = plr.julia.lux(code, seed=0).double()
                with torch.no_grad():
                    assert other.p is not None
                    other.p.copy_(sides[i].p)
                sides[i] = other
        node = plr.NeuralSDE(*sides, engine="julia", generator=torch.Generator().manual_seed(2))
        u0 = normal(4, 3).requires_grad_()
        solution = node(u0)
        results.append((solution, torch.autograd.grad(solution.u.square().sum(), [u0, *node.parameters()])))
    assert results[0][0].stats == results[1][0].stats
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert distance(theirs, ours) < 1e-10


@needs_julia
def test_one_model_as_drift_and_diffusion() -> None:
    """Its gradient is that of both."""
    grads = []
    for shared in (True, False):
        drift = plr.julia.lux("Dense(2 => 2, tanh)", seed=0).double()
        diffusion = drift if shared else plr.julia.lux("Dense(2 => 2, tanh)", seed=0).double()
        node = plr.NeuralSDE(
            drift,
            diffusion,
            engine="julia",
            generator=torch.Generator().manual_seed(2),
            abstol=1e-2,
            reltol=1e-2,
        )
        node(normal(3, 2)).u.sum().backward()
        grads.append(sum(p.grad for p in node.parameters() if p.grad is not None))
    assert isinstance(grads[0], torch.Tensor)
    assert isinstance(grads[1], torch.Tensor)
    assert distance(grads[0], grads[1]) < 1e-12


@needs_julia
def test_dropout_draws_once_a_solve() -> None:
    model = plr.julia.lux("Chain(Dense(3 => 50, tanh), Dropout(0.5), Dense(50 => 3))", seed=0).double()
    node = plr.NeuralODE(model, engine="julia", abstol=1e-9, reltol=1e-9)
    u0 = normal(4, 3)

    def end(seed: int, p: torch.Tensor | None = None) -> torch.Tensor:
        torch.manual_seed(seed)
        if p is None:
            u: torch.Tensor = node(u0).u
            return u
        with torch.no_grad():
            assert model.p is not None
            kept = model.p.clone()
            model.p.copy_(p)
            u = node(u0).u
            model.p.copy_(kept)
        return u

    end(3).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(end(3), end(3))
    assert not torch.allclose(end(3), end(4))
    assert model.p is not None
    assert model.p.grad is not None
    some = torch.zeros_like(model.p)
    some[::17] = normal(len(some[::17]), seed=5)
    p, h = model.p.detach().clone(), 1e-6
    slope = (end(3, p + h * some).sum() - end(3, p - h * some).sum()) / (2 * h)
    assert abs(float(slope - (model.p.grad * some).sum())) < 1e-6 * float(slope.abs())
    node.eval()
    assert torch.equal(end(3), end(4))
    assert node(u0).stats.naccept < 100  # of one smooth function, not of another one at every call


@needs_julia
def test_running_statistics_are_saved() -> None:
    model = plr.julia.lux(CODE["batchnorm"], seed=0).double()
    node = plr.NeuralODE(model, engine="julia")
    assert model.state is not None
    before = model.state.clone()
    node(normal(6, 3)).u.sum().backward()
    assert not torch.equal(model.state, before)
    other = plr.julia.lux(CODE["batchnorm"], seed=1).double()
    other.load_state_dict(model.state_dict())
    ends = [plr.NeuralODE(m.eval(), engine="julia")(normal(2, 3)).u for m in (model, other)]
    assert torch.equal(ends[0], ends[1])


@needs_julia
def test_a_julia_object() -> None:
    import juliacall

    main = juliacall.Main
    main.seval("plr_test_decay(u, p, t) = -p[1] .* u")
    main.seval("plr_test_free(u, p, t) = 0.1 .* u .* (1 .- u)")
    model = plr.julia.function(main.plr_test_decay, [2.0]).double()
    end = plr.NeuralODE(model, engine="julia", abstol=1e-10, reltol=1e-10)(
        torch.ones(3, dtype=torch.float64)
    ).u
    assert distance(end.detach(), torch.exp(torch.full((3,), -2.0, dtype=torch.float64))) < 1e-8
    # given bare, it has the right gradient too
    u0 = torch.full((2,), 0.3, dtype=torch.float64, requires_grad=True)
    node = plr.NeuralODE(main.plr_test_free, engine="julia", abstol=1e-11, reltol=1e-11)
    (by_u0,) = torch.autograd.grad(node(u0).u.sum(), u0)
    growth = torch.exp(torch.tensor(0.1, dtype=torch.float64))
    expected = growth / (1 + 0.3 * (growth - 1)) ** 2
    assert float((by_u0 - expected).abs().max()) < 1e-8
    with pytest.raises(OptionError, match="written in Julia"):
        plr.NeuralODE(main.plr_test_free, engine="torch")
    lux = plr.julia.lux(main.seval("LocalReg.Lux.Dense(2 => 2)"), seed=0)
    assert plr.NeuralODE(lux, engine="julia")(torch.zeros(1, 2)).u.shape == (1, 2)


REFUSED: dict[str, tuple[str, type[Exception], str]] = {
    "random": ("(u, p, t) -> u .* rand()", OptionError, "random"),
    "writes to u": ("(u, p, t) -> (u .= 0; copy(u))", OptionError, "wrote to"),
    "another shape": ("(u, p, t) -> u[1:1, :]", ShapeError, "size"),
    "no array": ("(u, p, t) -> 1.0", ShapeError, "Float64"),
    "unwritten": ("(du, u, p, t) -> (du[1] = u[1]; nothing)", ShapeError, "5 of 6"),
    "adds": ("(du, u, p, t) -> (du .+= u; nothing)", ShapeError, "6 of 6"),
    "mismatch": ("(u, p, t) -> ones(4, 4) * u", ShapeError, "fit"),
}


@needs_julia
@pytest.mark.parametrize("name", REFUSED)
def test_functions_that_are_refused(name: str) -> None:
    code, error, text = REFUSED[name]
    node = plr.NeuralODE(plr.julia.function(code), engine="julia")
    with pytest.raises(error, match=text):
        node(normal(3, 2))


@needs_julia
def test_code_that_fails() -> None:
    for make, code, text in (
        (plr.julia.lux, "Chain(", "failed"),
        (plr.julia.lux, "3 + 4", "no Lux layer"),
        (plr.julia.lux, "missing_name", "missing_name"),
        (plr.julia.function, "Dense(2 => 2)", "plr.julia.lux"),
        (plr.julia.function, "(x, y) -> x", "arguments"),
        (plr.julia.function, "3", "arguments"),
    ):
        with pytest.raises(OptionError, match=text):
            make(code)


@needs_julia
def test_writing_out_of_place_has_no_gradient() -> None:
    node = plr.NeuralODE(plr.julia.function("(u, p, t) -> (y = copy(u); y[1] = 0; y)"), engine="julia")
    u0 = normal(3, 2).requires_grad_()
    with pytest.raises(OptionError, match="out of place"):
        node(u0).u.sum().backward()


@needs_julia
def test_functions_of_doubles_alone_have_no_gradient() -> None:
    code = "(du::Matrix{Float64}, u::Matrix{Float64}, p, t) -> (du .= .-u; nothing)"
    node = plr.NeuralODE(plr.julia.function(code), engine="julia")
    u0 = normal(3, 2).requires_grad_()
    end = node(u0).u
    with pytest.raises(OptionError, match="dual numbers"):
        end.sum().backward()


class Doubled(torch.nn.Module):
    """A Julia model inside dynamics written in PyTorch."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 2 * torch.tanh(self.net(t, u))


@needs_julia
@pytest.mark.parametrize("engine", ["torch", "julia"])
def test_inside_a_pytorch_module(engine: str) -> None:
    results = []
    for module in pair("Chain"):
        node = plr.NeuralODE(Doubled(module), engine=engine, dt=0.1, adaptive=False)
        u0 = normal(5, 3).requires_grad_()
        results.append(torch.autograd.grad(node(u0).u.square().sum(), [u0, *node.parameters()]))
    for ours, theirs in zip(*results, strict=True):
        assert distance(theirs, ours) < 1e-10


@needs_julia
def test_second_derivatives_are_refused() -> None:
    node = plr.NeuralODE(pair("Chain")[1], engine="julia", regularizer=plr.RNODE())
    with pytest.raises(OptionError, match=r"torch\.func"):
        node(normal(5, 3))
    u = normal(5, 3).requires_grad_()
    with pytest.raises(DoubleBackwardError):
        torch.autograd.grad(pair("Chain")[1](0.0, u).sum(), u, create_graph=True)


@needs_julia
def test_constants_of_another_precision() -> None:
    node = plr.NeuralODE(plr.julia.function("(u, p, t) -> 1.5 .* u"), engine="julia")
    with pytest.raises(DtypeError, match="Float64"):
        node(torch.ones(3))
    assert node(torch.ones(3, dtype=torch.float64)).u.shape == (3,)


@needs_julia
def test_layers_with_memory_are_refused() -> None:
    code = "VariationalHiddenDropout(0.5)"
    with pytest.raises(OptionError, match="state changes"):
        plr.NeuralODE(plr.julia.lux(code, seed=0), engine="julia")(torch.ones(3, 2))


@needs_julia
def test_inputs_and_parts_are_refused() -> None:
    node = plr.NeuralODE(plr.julia.function("(u, p, t) -> -u"), engine="julia")
    with pytest.raises(OptionError, match="inputs"):
        node(torch.ones(2), inputs=(torch.ones(2),))
    with pytest.raises(ShapeError, match="one tensor"):
        node((torch.ones(2), torch.ones(2)))


@needs_julia
@pytest.mark.parametrize("timed", [False, True])
def test_to_lux(timed: bool) -> None:
    import juliacall

    main = juliacall.Main
    layers = (plr.Dense(3, 5), plr.BatchNorm(5, "tanh"), plr.Dense(5, 3))
    node = plr.NeuralODE((plr.TimeDependent if timed else plr.Chain)(*layers), engine="julia").double()
    node(normal(6, 3))
    node.eval()
    u = normal(4, 3)
    apply = main.seval("(model, x, t, ps, st) -> first(model(t === nothing ? x : (x, t), ps, st))")
    x = main.seval("x -> collect(transpose(x))")(u.numpy())
    model, ps, st = plr.julia.to_lux(node)
    y = torch.from_numpy(apply(model, x, 0.3 if timed else None, ps, st).to_numpy()).T
    with torch.no_grad():
        assert distance(y, node.dynamics(torch.tensor(0.3, dtype=torch.float64), u)) < 1e-13
    written = plr.julia.lux(CODE["batchnorm"], seed=0).double().eval()
    model, ps, st = plr.julia.to_lux(plr.NeuralODE(written, engine="julia"))
    y = torch.from_numpy(apply(model, x, None, ps, st).to_numpy()).T
    with torch.no_grad():
        assert distance(y, written(0.0, u)) < 1e-13


@needs_julia
def test_the_stack_s_solution() -> None:
    import juliacall

    node = plr.NeuralODE(plr.julia.function("(u, p, t) -> -u"), engine="julia")
    u0 = torch.ones(2, dtype=torch.float64)
    solution = node(u0, dense=True)
    sol = solution.julia
    assert str(sol.retcode) == "Success"
    assert len(sol.t) == solution.stats.naccept + 1
    assert abs(float(sol(0.5)[0]) - float(solution(0.5)[0])) < 1e-15
    assert "ODESolution" in str(juliacall.Main.typeof(sol))


@needs_julia
@pytest.mark.parametrize("regularized", [False, True])
def test_a_model_from_a_file_learns_digits(regularized: bool) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    images, labels = sklearn.load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32)[:512], torch.tensor(labels)[:512]
    torch.manual_seed(0)
    node = plr.NeuralODE(
        plr.julia.lux("build(64, 32)", file=EXAMPLES / "digits_model.jl", seed=0),
        engine="julia",
        abstol=1e-4,
        reltol=1e-4,
        regularizer=plr.LocalRegularizer(generator=torch.Generator().manual_seed(0)) if regularized else None,
    )
    head = torch.nn.Linear(64, 10)
    optimizer = torch.optim.Adam([*node.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for _ in range(30):
        solution = node(x)
        loss = entropy = torch.nn.functional.cross_entropy(head(solution.u), y)
        if regularized:
            loss = loss + 10 * solution.regularization
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(entropy.detach()))
    assert losses[-1] < 0.4 * losses[0]


@needs_julia
def test_physical_parameters_are_found() -> None:
    """From trajectories of Lotka-Volterra the rates that made them."""
    times = torch.linspace(0.2, 3.0, 15, dtype=torch.float64)
    u0 = torch.tensor([1.0, 1.0], dtype=torch.float64)

    def solver_of(rates: dict[str, float]) -> plr.NeuralODE:
        model = plr.julia.function("lotka_volterra!", rates, file=LOTKA).double()
        return plr.NeuralODE(model, (0.0, 3.0), engine="julia", saveat=times, abstol=1e-8, reltol=1e-8)

    with torch.no_grad():
        measured = solver_of(RATES)(u0).u
    node = solver_of({name: 0.8 * rate for name, rate in RATES.items()})
    optimizer = torch.optim.LBFGS(node.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = (node(u0).u - measured).square().mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = next(node.parameters()).detach()
    assert float((found - torch.tensor(list(RATES.values()))).abs().max()) < 1e-3
