"""Chains narrower than their state: steps among the hidden values are the steps but for rounding."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.torch_engine.explicit_rk import narrow_chain
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from tests.conftest import Unknown, assert_close, gradients, normal

Dense, Chain, TimeDependent = plr.Dense, plr.Chain, plr.TimeDependent
NARROW = TimeDependent(Dense(24, 4, "tanh"), Dense(4, 24))
BETWEEN = Chain(Dense(24, 3, "tanh"), Dense(3, 5, "swish"), Dense(5, 4, "sin"), Dense(4, 24))


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_chain, "WORTH", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often layers are called, in its only element; a hook on them would be called too, and seen."""
    count, forward = [0], LayerDynamics.forward

    def counted(self: LayerDynamics, *arguments: Any) -> torch.Tensor:
        count[0] += 1
        return forward(self, *arguments)

    monkeypatch.setattr(LayerDynamics, "forward", counted)
    return count


def pair(layers: Any = NARROW, **options: Any) -> tuple[plr.NeuralODE, plr.NeuralODE]:
    """The layers, and the same as a function of which nothing is known."""
    options = {"engine": "torch", "abstol": 1e-6, "reltol": 1e-6, **options}
    if options.get("solver") in ("Euler", "RK4"):
        options |= {"dt": 0.1, "adaptive": False}
    regularizer: Any = options.pop("regularizer", lambda _: None)
    torch.manual_seed(0)
    known = LayerDynamics(layers).double()
    with torch.no_grad():
        known.p.mul_(1.5)

    nodes = [
        plr.NeuralODE(f, regularizer=regularizer(torch.Generator().manual_seed(0)), **options)
        for f in (known, Unknown(known))
    ]
    return nodes[0], nodes[1]


def of(node: plr.NeuralODE, **options: Any) -> tuple[plr.Solution, list[torch.Tensor]]:
    """A solve, and the gradients of a loss of it."""
    u0 = normal(40, 24).requires_grad_()
    solution = node(u0, **options)
    loss = solution.u.square().sum()
    if solution.regularization is not None:
        loss = loss + 100 * solution.regularization
    return solution, gradients(loss, node, u0)


def assert_reversed(calls: list[int], layers: Any = NARROW, called: bool = False, **options: Any) -> None:
    """The gradients are those of steps taken again call by call; layers are ``called`` for them or not."""
    known, unknown = pair(layers, **options)
    u0 = normal(40, 24).requires_grad_()
    solution = known(u0)
    loss = solution.u.square().sum()
    if solution.regularization is not None:
        loss = loss + 100 * solution.regularization
    before = calls[0]
    ours = gradients(loss, known, u0)
    assert (calls[0] > before) == called
    solved, right = of(unknown)
    assert solution.stats == solved.stats
    # an estimate cancels all but some digits of its stages, and so does its gradient
    assert_close(ours, right, rtol=1e-11 if solution.regularization is None else 1e-7)


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_steps_of_every_method_are_reversed(solver: str, calls: list[int]) -> None:
    assert_reversed(calls, solver=solver)


@pytest.mark.parametrize("activation", sorted(plr.dynamics.ACTIVATIONS))
def test_every_activation(activation: str, calls: list[int]) -> None:
    assert_reversed(calls, Chain(Dense(24, 4, activation), Dense(4, 24)))


@pytest.mark.parametrize("kind", [Chain, TimeDependent])
def test_layers_between(kind: Any, calls: list[int]) -> None:
    assert_reversed(calls, kind(*BETWEEN.layers))


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7"])
@pytest.mark.parametrize("saveat", [(0.0, 0.3, 1.0), (0.1, 0.2, 0.25)])
def test_states_asked_for_inside_steps(saveat: tuple[float, ...], solver: str, calls: list[int]) -> None:
    assert_reversed(calls, saveat=saveat, solver=solver)


@pytest.mark.parametrize("layers", [NARROW, BETWEEN])
@pytest.mark.parametrize("options", [{"keep_stages": True}, {"keep_stages": "auto"}, {"checkpoints": 2}])
def test_what_was_kept_of_the_solve(options: dict[str, Any], layers: Any, calls: list[int]) -> None:
    assert_reversed(calls, layers, called="checkpoints" in options, **options)


@pytest.mark.parametrize("inside", ["forward", "backward", "both"])
def test_what_was_kept_inside_a_mode_for_functions(inside: str) -> None:
    """``torch.set_default_device`` is one: layers are called there, and not by narrow steps."""
    known, unknown = pair(keep_stages=True, regularizer=lambda g: plr.LocalRegularizer("biased", generator=g))
    found = []
    for node in (known, unknown):
        u0, mode = normal(40, 24).requires_grad_(), torch.device("cpu")
        with mode if inside != "backward" else nullcontext():
            solution = node(u0)
            assert solution.regularization is not None
            loss = solution.u.square().sum() + solution.regularization
        with mode if inside != "forward" else nullcontext():
            found.append(gradients(loss, node, u0))
    assert_close(found[0], found[1], rtol=1e-8)


@pytest.mark.parametrize(
    ("regularizer", "called"),
    [
        (lambda g: plr.LocalRegularizer("biased", generator=g), False),
        (lambda g: plr.LocalRegularizer("biased", through_state=True, samples=3, generator=g), False),
        (lambda g: plr.LocalRegularizer("unbiased", samples=2, generator=g), False),
        (lambda g: plr.GlobalRegularizer(), False),
        (lambda g: plr.LocalRegularizer("biased", gradient="frozen", generator=g), True),
        (lambda g: plr.GlobalRegularizer("stiffness"), True),
    ],
)
def test_estimates(regularizer: Any, called: bool, calls: list[int]) -> None:
    assert_reversed(calls, called=called, regularizer=regularizer)


def test_an_estimate_alone() -> None:
    known, unknown = pair(
        regularizer=lambda g: plr.LocalRegularizer("biased", through_state=True, generator=g)
    )
    u0 = normal(40, 24).requires_grad_()
    ours, right = (gradients(node(u0).regularization, node, u0) for node in (known, unknown))  # type: ignore[arg-type]
    assert_close(ours, right, rtol=1e-7)


def test_second_derivatives_of_an_estimate() -> None:
    found = []
    for node in pair(regularizer=lambda g: plr.LocalRegularizer("unbiased", generator=g)):
        value = node(normal(40, 24)).regularization
        assert value is not None
        (first,) = torch.autograd.grad(value, list(node.parameters()), create_graph=True)
        found.append([first.detach(), *torch.autograd.grad(first.square().sum(), list(node.parameters()))])
    assert_close(found[0], found[1], rtol=1e-7)


def test_one_of_the_gradients_alone() -> None:
    known, unknown = pair()
    u0 = normal(40, 24)
    ours, right = (
        list(torch.autograd.grad(node(u0).u.sum(), list(node.parameters()))) for node in (known, unknown)
    )
    assert_close(ours, right, rtol=1e-11)
    for node in (known, unknown):
        node.requires_grad_(False)
    u0.requires_grad_()
    ours, right = (list(torch.autograd.grad(node(u0).u.sum(), [u0])) for node in (known, unknown))
    assert_close(ours, right, rtol=1e-11)


def test_states_of_more_dimensions() -> None:
    u0 = normal(5, 8, 24).transpose(0, 1).requires_grad_()
    ours, right = (gradients(node(u0).u.sin().sum(), node, u0) for node in pair())
    assert_close(ours, right, rtol=1e-11)


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        (Chain(Dense(24, 24, "tanh")), {}),
        (Chain(Dense(24, 4, "tanh"), Dense(4, 24, "tanh")), {}),
        (Chain(Dense(24, 48, "tanh"), Dense(48, 24)), {}),
        (NARROW, {"tstops": [0.3]}),
    ],
)
def test_others_are_reversed_call_by_call(layers: Any, options: dict[str, Any], calls: list[int]) -> None:
    assert_reversed(calls, layers, called=True, **options)


def test_a_hook_sees_every_call(calls: list[int]) -> None:
    known, _ = pair()
    seen = []
    known.dynamics.register_forward_hook(lambda *_: seen.append(1))
    of(known)
    assert len(seen) == calls[0]


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_compiled_solves_take_the_same_steps(solver: str, calls: list[int]) -> None:
    known, unknown = pair(solver=solver, compile=True)[0], pair(solver=solver)[1]
    ours, gradients_of_ours = of(known)
    assert calls[0] <= 2  # for the automatic first step
    right, gradients_of_right = of(unknown)
    assert ours.stats == right.stats
    assert_close([ours.u, *gradients_of_ours], [right.u, *gradients_of_right], rtol=1e-9)


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7"])
def test_dense_output_of_compiled_solves(solver: str) -> None:
    options: dict[str, Any] = {"solver": solver, "saveat": (0.1, 0.25, 1.0)}
    known, unknown = pair(compile=True, **options)[0], pair(**options)[1]
    u0 = normal(40, 24)
    ours, right = known(u0, dense=True), unknown(u0, dense=True)
    assert ours.stats == right.stats
    assert_close([ours.u, ours(0.7)], [right.u, right(0.7)], rtol=1e-9)


def test_compiled_solves_reject_and_recall_steps() -> None:
    options: dict[str, Any] = {"dt": 1.0, "abstol": 1e-9, "reltol": 1e-9, "checkpoints": 3}
    ours, gradients_of_ours = of(pair(compile=True, **options)[0])
    right, gradients_of_right = of(pair(**options)[1])
    assert ours.stats == right.stats
    assert ours.stats.nreject > 0
    assert_close([ours.u, *gradients_of_ours], [right.u, *gradients_of_right], rtol=1e-9)


def test_stiffness_of_compiled_solves() -> None:
    options: dict[str, Any] = {"regularizer": lambda _: plr.GlobalRegularizer("stiffness")}
    ours, right = of(pair(compile=True, **options)[0])[0], of(pair(**options)[1])[0]
    assert ours.regularization is not None
    assert right.regularization is not None
    torch.testing.assert_close(ours.regularization, right.regularization, rtol=1e-9, atol=0)
