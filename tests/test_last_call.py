"""A module keeps what its last call came to: whatever is changed then, the next is as a new module's."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines import get_engine
from pylocalreg.moments import Moments
from tests.julia import ENGINES, needs_julia


def layers(seed: int = 0) -> plr.dynamics.LayerDynamics:
    torch.manual_seed(seed)
    module = plr.dynamics.as_module(plr.TimeDependent(plr.Dense(2, 6, "tanh"), plr.Dense(6, 2)))
    assert isinstance(module, plr.dynamics.LayerDynamics)
    with torch.no_grad():
        module.p.add_(torch.randn_like(module.p), alpha=0.3)
    return module


def node_of(engine: str, **options: Any) -> plr.NeuralODE:
    return plr.NeuralODE(layers(), engine=engine, abstol=1e-4, reltol=1e-4, **options)


def called(engine: str) -> plr.NeuralODE:
    """A node that keeps its last call."""
    node = node_of(engine)
    for _ in range(3):
        node(state())
    return node


def state(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*(shape or (3, 2)), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def anew(node: plr.NeuralODE) -> plr.NeuralODE:
    """A copy, which has been called with nothing."""
    if isinstance(node.dynamics, plr.dynamics.LayerDynamics):
        node.dynamics._unpacked = (
            None  # which a parametrized module's own way to be copied does not leave out
        )
    fresh = copy.deepcopy(node)
    assert fresh._last_call is None
    return fresh


def check(solution: plr.Solution, expected: plr.Solution) -> None:
    assert torch.equal(solution.u, expected.u)
    assert solution.u.dtype == expected.u.dtype
    assert solution.stats == expected.stats
    assert np.array_equal(solution.t, expected.t)
    for name in ("t", "dt", "EEst"):
        assert np.array_equal(getattr(solution.steps, name), getattr(expected.steps, name), equal_nan=True)
    assert (solution.regularization is None) == (expected.regularization is None)


def gradients(solution: plr.Solution, node: plr.NeuralODE) -> list[Any]:
    wanted = [p for p in node.parameters() if p.requires_grad]
    return list(torch.autograd.grad(solution.u.sum(), wanted, allow_unused=True)) if wanted else []


def terminal() -> plr.Event:
    return plr.Event(lambda t, u: t - 0.4)


def fix_steps(node: plr.NeuralODE) -> None:
    node.dt, node.adaptive = 0.25, False


def set_p(node: plr.NeuralODE) -> None:
    node.dynamics.p = torch.nn.Parameter(node.get_parameter("dynamics.p").detach() * 0.5)


def set_data(node: plr.NeuralODE) -> None:
    node.get_parameter("dynamics.p").data = node.get_parameter("dynamics.p").data * 0.5


def set_strided_data(node: plr.NeuralODE) -> None:
    p = node.get_parameter("dynamics.p")
    p.data = torch.stack([p.data * 0.5, p.data], dim=1)[:, 0]


@torch.no_grad()
def write(node: plr.NeuralODE) -> None:
    node.get_parameter("dynamics.p").mul_(0.5)


def load(node: plr.NeuralODE, assign: bool) -> None:
    node.load_state_dict({"dynamics.p": layers(seed=1).p.detach()}, assign=assign)


def parametrize(node: plr.NeuralODE) -> None:
    class Halved(torch.nn.Module):
        def forward(self, p: torch.Tensor) -> torch.Tensor:
            return p / 2

    torch.nn.utils.parametrize.register_parametrization(node.dynamics, "p", Halved())


def reclass(node: plr.NeuralODE) -> None:
    class Halved(plr.dynamics.LayerDynamics):
        def forward(self, t: torch.Tensor, u: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(t, u, *inputs) / 2

    node.dynamics.__class__ = Halved


def describe_otherwise(node: plr.NeuralODE) -> None:
    assert isinstance(node.dynamics, plr.dynamics.LayerDynamics)
    node.dynamics.description = plr.TimeDependent(plr.Dense(2, 6, "relu"), plr.Dense(6, 2))


CHANGES: dict[str, Callable[[plr.NeuralODE], object]] = {
    "abstol": lambda node: setattr(node, "abstol", 1e-8),
    "reltol": lambda node: setattr(node, "reltol", 1e-6),
    "solver": lambda node: setattr(node, "solver", "BS3"),
    "tspan": lambda node: setattr(node, "tspan", (0.0, 2.0)),
    "saveat": lambda node: setattr(node, "saveat", Moments([0.3, 0.7])),
    "saveat twice": lambda node: setattr(node, "saveat", Moments([0.3, 0.3, 0.7])),
    "dt": lambda node: setattr(node, "dt", 0.01),
    "adaptive": fix_steps,
    "step options": lambda node: setattr(
        node, "step_options", dataclasses.replace(node.step_options, dtmax=0.05)
    ),
    "gamma": lambda node: setattr(node, "step_options", dataclasses.replace(node.step_options, gamma=0.5)),
    "tstops": lambda node: setattr(
        node, "step_options", dataclasses.replace(node.step_options, tstops=(0.3,))
    ),
    "regularizer": lambda node: setattr(node, "regularizer", plr.LocalRegularizer("biased")),
    "dynamics": lambda node: setattr(node, "dynamics", layers(seed=1)),
    "module": lambda node: node.add_module("dynamics", layers(seed=1)),
    "function": lambda node: setattr(node, "dynamics", plr.dynamics.as_module(lambda t, u: -u)),
    "event": lambda node: node.events.append(terminal()),
    "events": lambda node: node.add_module("events", torch.nn.ModuleList([terminal()])),
    "written parameters": write,
    "parameters' data": set_data,
    "parameters' strides": set_strided_data,
    "other parameters": set_p,
    "state_dict": lambda node: load(node, assign=False),
    "assigned state_dict": lambda node: load(node, assign=True),
    "parametrization": parametrize,
    "description": describe_otherwise,
    "hook": lambda node: node.dynamics.register_forward_hook(lambda module, given, k: 2 * k),
    "class": reclass,
    "gradients": lambda node: node.requires_grad_(not node.get_parameter("dynamics.p").requires_grad),
    "nothing": lambda node: None,
}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_changed_between_two_calls_is_seen_by_the_second(
    engine: str, change: str, grad: bool, trained: bool
) -> None:
    node = node_of(engine)
    node.requires_grad_(trained)
    with torch.set_grad_enabled(grad):
        for seed in range(3):
            node(state(seed=seed))
        CHANGES[change](node)
        for seed in (3, 4, 5):
            fresh = anew(node)
            solution, expected = node(state(seed=seed)), fresh(state(seed=seed))
            check(solution, expected)
            assert solution.u.requires_grad == expected.u.requires_grad
            if expected.u.requires_grad:
                for own, right in zip(gradients(solution, node), gradients(expected, fresh), strict=True):
                    assert own is right or torch.equal(own, right)


@pytest.mark.parametrize("engine", ENGINES)
def test_modes_are_seen(engine: str) -> None:
    node = node_of(engine, regularizer=plr.LocalRegularizer("biased"))
    for training in (False, False, True, True, False, False):
        node.train(training)
        with torch.no_grad():
            assert (node(state()).regularization is not None) == training
            assert node(state(), regularize=True).regularization is not None
            assert node(state(), regularize=False).regularization is None


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_what_a_call_is_given_beside_the_state_is_seen(engine: str) -> None:
    node = called(engine)
    assert node(state(), saveat=[0.5, 1.0]).u.shape == (2, 3, 2)
    dense = node(state(), dense=True)
    assert torch.equal(dense(1.0), node(state()).u)
    with pytest.raises(plr.errors.OptionError, match="dense output"):
        node(state())(0.5)


STATES: dict[str, Callable[[], torch.Tensor]] = {
    "shape": lambda: state(4, 2),
    "dimensions": lambda: state(2, 3, 2),
    "strides": lambda: state(2, 3).T,
    "negated view": lambda: torch._neg_view(state()),
    "parameter": lambda: torch.nn.Parameter(state()),
    "requires grad": lambda: state().requires_grad_(),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_states_of_other_kinds(engine: str, kind: str) -> None:
    node = called(engine)
    for _ in range(3):
        u0 = STATES[kind]()
        check(node(u0), anew(node)(u0.detach().clone(memory_format=torch.contiguous_format)))


REFUSED: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (state(),),
    "dict": lambda: {"u": state()},
    "list": lambda: state().tolist(),
    "sparse": lambda: state().to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([state(2)] * 3),
    "meta": lambda: state().to("meta"),
    "integers": lambda: state().long(),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_what_is_refused_is_refused_as_at_the_first_call(engine: str, kind: str) -> None:
    node = called(engine)
    for _ in range(2):
        with pytest.raises(plr.errors.LocalRegError) as first:
            anew(node)(REFUSED[kind]())
        with pytest.raises(type(first.value)) as again:
            node(REFUSED[kind]())
        assert str(again.value) == str(first.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_in_another_dtype(engine: str) -> None:
    node = node_of(engine)
    for dtype in (torch.float32, torch.float64, torch.float32):
        node.to(dtype)
        with torch.no_grad():
            for _ in range(3):
                check(node(state(dtype=dtype)), anew(node)(state(dtype=dtype)))
            with pytest.raises(plr.errors.DtypeError):
                node(state(dtype=torch.float32 if dtype == torch.float64 else torch.float64))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_between_solves_without(engine: str) -> None:
    node, given = node_of(engine), state().requires_grad_()

    def by_all(module: plr.NeuralODE) -> list[torch.Tensor]:
        loss = module(given).u.square().sum()
        return list(torch.autograd.grad(loss, [given, *module.parameters()]))

    for _ in range(3):
        with torch.no_grad():
            assert not node(given).u.requires_grad
        for a, b in zip(by_all(node), by_all(anew(node)), strict=True):
            assert torch.equal(a, b)
    node.requires_grad_(False)
    for _ in range(3):
        assert not node(state()).u.requires_grad
        assert node(given).u.requires_grad
    node.requires_grad_(True)
    assert node(state()).u.requires_grad


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_parameters_that_are_lent_for_one_call(engine: str) -> None:
    node, other = node_of(engine), layers(seed=1).p.detach()
    for _ in range(3):
        own = node(state())
        lent = torch.func.functional_call(node, {"dynamics.p": other}, (state(),))
        assert torch.equal(
            lent.u, torch.func.functional_call(anew(node), {"dynamics.p": other}, (state(),)).u
        )
        assert not torch.equal(lent.u, own.u)


@pytest.mark.parametrize("engine", ENGINES)
def test_function_transforms(engine: str) -> None:
    node = node_of(engine)
    with torch.no_grad():
        for _ in range(3):
            node(state())
    samples = state(4, 3, 2)
    each = torch.func.vmap(lambda u: node(u).u)(samples)
    assert torch.allclose(each, torch.stack([anew(node)(u).u for u in samples]), atol=1e-6)
    by_u0 = torch.func.grad(lambda u: node(u).u.sum())(state())
    u0 = state().requires_grad_()
    anew(node)(u0).u.sum().backward()
    assert u0.grad is not None
    assert torch.allclose(by_u0, u0.grad, atol=1e-6)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(plr.errors.OptionError, match="forward-mode"):
        node(torch.autograd.forward_ad.make_dual(state(), state(seed=1)))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_states_of_half_precision_under_autocast(engine: str) -> None:
    node = node_of(engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(4):
            check(node(state().bfloat16()), anew(node)(state().bfloat16()))
    for _ in range(3):
        with pytest.raises(plr.errors.DtypeError):
            node(state().bfloat16())


@pytest.mark.parametrize("engine", ENGINES)
def test_states_of_inference_mode(engine: str) -> None:
    node = node_of(engine)
    for _ in range(3):
        fresh = anew(node)
        with torch.inference_mode():
            made = state()
            check(node(made), fresh(made))
        with torch.no_grad():
            node(state())
        with pytest.raises(plr.errors.DtypeError, match="inference mode"):
            node(made)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_a_shallow_copy_has_options_of_its_own(engine: str) -> None:
    node = called(engine)
    other = copy.copy(node)
    other.abstol = other.reltol = 1e-8
    for _ in range(3):
        check(other(state()), anew(other)(state()))
        check(node(state()), anew(node)(state()))
    assert other(state()).stats.nfe > node(state()).stats.nfe


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_each_solution_has_memory_of_its_own(engine: str) -> None:
    node = node_of(engine, saveat=[0.5, 1.0])
    solutions = [node(state(seed=seed)) for seed in range(5)]
    solutions[-1].steps.dt[:] = 0
    solutions[-1].t[:] = 0
    solutions[-1].u.zero_()
    for seed, solution in enumerate(solutions[:-1]):
        check(solution, anew(node)(state(seed=seed)))


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_hooks_are_called_each_time(engine: str) -> None:
    node, calls = node_of(engine), []
    node.register_forward_hook(lambda module, given, solution: calls.append(solution))
    for _ in range(4):
        node(state())
    assert len(calls) == 4


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_errors_are_those_of_the_first_call(engine: str) -> None:
    node = node_of(engine, maxiters=20)
    p = node.get_parameter("dynamics.p")
    for _ in range(3):
        node(state())
    for _ in range(2):
        p.mul_(100)
        with pytest.raises(plr.errors.StepLimitError) as again:
            node(state())
        with pytest.raises(plr.errors.StepLimitError) as first:
            anew(node)(state())
        assert str(again.value) == str(first.value)
        p.div_(100)
        with pytest.raises(plr.errors.NonFiniteError):
            node(torch.full((3, 2), torch.nan))
        with pytest.raises(plr.errors.ShapeError):
            node(state(3, 5))
        node(state())


@needs_julia
@torch.no_grad()
def test_the_third_call_is_one_call_of_julia(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of("julia")
    for _ in range(2):
        node(state())

    def no_more(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(get_engine("julia")), "solve", no_more)
    node(state(seed=1))
    with pytest.raises(AssertionError):
        node(state(4, 2))


@needs_julia
@torch.no_grad()
def test_the_stacks_own_solution_keeps_its_initial_state() -> None:
    node = node_of("julia")
    solutions = [node(state(seed=seed)) for seed in range(4)]
    for seed, solution in enumerate(solutions):
        sol = solution.julia
        assert np.array_equal(np.array(sol.prob.u0).T, state(seed=seed).numpy())
        assert np.array_equal(np.array(sol.u[0]).T, state(seed=seed).numpy())
        assert np.array_equal(np.array(sol.u[-1]).T, solution.u.numpy())


@needs_julia
@torch.no_grad()
def test_the_parameters_memory_is_held_as_long_as_it_is_read() -> None:
    node = called("julia")
    for seed in range(20):  # the old memory is free, and something else may soon be there
        node.get_parameter("dynamics.p").data = layers(seed).p.detach()
        made = [torch.full_like(layers(seed).p.detach(), 1e6) for _ in range(20)]
        for _ in range(2):
            check(node(state()), anew(node)(state()))
        del made


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_step_from_the_last_solve(engine: str) -> None:
    node = node_of(engine, dt="last")
    forgets = anew(node)
    for i in range(12):
        if i in (7, 9):
            for module in (node, forgets):
                module.train(i == 9)
        forgets._last_call = None
        with torch.set_grad_enabled(i % 4 == 3):
            check(node(state(seed=i)), forgets(state(seed=i)))
        assert node.first_step is not None
        assert forgets.first_step is not None
        assert node.first_step.size == forgets.first_step.size
        assert node._last_call is not None
