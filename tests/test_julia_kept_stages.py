"""keep_stages on the Julia engine: the gradients of steps taken again, without taking them again."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.julia_engine import problems
from pylocalreg.engines.torch_engine.explicit_rk import kept
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from tests.conftest import assert_close, gradients, normal
from tests.julia import module_of, needs_julia

pytestmark = needs_julia

WIDE = plr.TimeDependent(plr.Dense(3, 16, "tanh"), plr.Dense(16, 3))
NARROW = plr.TimeDependent(
    plr.Dense(160, 16, "tanh"), plr.Dense(16, 12, "softplus"), plr.Dense(12, 160)
)  # whose steps are reversed among the hidden values


def node(keep_stages: Any = True, layers: plr.TimeDependent = WIDE, **options: Any) -> plr.NeuralODE:
    if options.get("solver", "Tsit5") in ("Euler", "RK4"):
        options |= {"dt": 0.25, "adaptive": False}
    module = module_of(layers, torch.float64)
    return plr.NeuralODE(module, engine="julia", keep_stages=keep_stages, **options)


def state(layers: plr.TimeDependent) -> torch.Tensor:
    return normal(128, 160) if layers is NARROW else normal(4, 3)


def of(node: plr.NeuralODE, u0: torch.Tensor) -> tuple[plr.Stats, list[torch.Tensor]]:
    u0 = u0.clone().requires_grad_()
    solution = node(u0)
    loss = solution.u.square().sum()
    if solution.regularization is not None:
        loss = loss + 100 * solution.regularization
    return solution.stats, gradients(loss, node, u0)


def assert_the_same(layers: plr.TimeDependent = WIDE, keep_stages: Any = True, **options: Any) -> None:
    def regularized(keep_stages: Any) -> plr.NeuralODE:
        given = dict(options)
        if "regularizer" in given:
            given["regularizer"] = given["regularizer"](torch.Generator().manual_seed(0))
        return node(keep_stages, layers, **given)

    u0 = state(layers)
    stats, ours = of(regularized(keep_stages), u0)
    right_stats, right = of(regularized(False), u0)
    assert stats == right_stats
    assert_close(ours, right, rtol=1e-12)


@pytest.mark.parametrize("layers", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_the_gradients_of_every_method(solver: str, layers: plr.TimeDependent) -> None:
    assert_the_same(layers, solver=solver)


@pytest.mark.parametrize("layers", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("saveat", [(0.0, 0.3, 1.0), (0.1, 0.2, 0.25)])
def test_states_asked_for_inside_steps(saveat: tuple[float, ...], layers: plr.TimeDependent) -> None:
    assert_the_same(layers, saveat=saveat)


@pytest.mark.parametrize(
    "regularizer",
    [
        lambda g: plr.LocalRegularizer("biased", generator=g),
        lambda g: plr.LocalRegularizer("biased", through_state=True, generator=g),
        lambda g: plr.LocalRegularizer("unbiased", generator=g),
        lambda g: plr.GlobalRegularizer(),
        lambda g: plr.GlobalRegularizer("stiffness"),
    ],
)
def test_regularizers(regularizer: Any) -> None:
    assert_the_same(regularizer=regularizer)


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7"])
@pytest.mark.parametrize("layers", [WIDE, NARROW], ids=["wide", "narrow"])
def test_steps_that_end_at_tstops_or_were_rejected(layers: plr.TimeDependent, solver: str) -> None:
    options: dict[str, Any] = {"tstops": [0.3, 0.31], "dt": 0.3, "abstol": 1e-10, "reltol": 1e-10}
    assert_the_same(layers, solver=solver, **options)
    assert node(True, layers, solver=solver, **options)(state(layers)).stats.nreject > 0


@pytest.mark.parametrize("layers", [WIDE, NARROW], ids=["wide", "narrow"])
def test_finite_differences(layers: plr.TimeDependent) -> None:
    module, u0 = node(True, layers, abstol=1e-12, reltol=1e-12), state(layers)
    _, (by_u0, *_) = of(module, u0)
    towards, h = torch.cos(u0), 1e-5
    with torch.no_grad():
        ahead, behind = (module(u0 + s * h * towards).u.square().sum() for s in (1, -1))
    torch.testing.assert_close((by_u0 * towards).sum(), (ahead - behind) / (2 * h), rtol=1e-6, atol=0)


def calls_on_the_way_back(keep_stages: Any) -> int:
    """Of f, in Julia."""
    module = node(keep_stages)
    loss = module(normal(4, 3)).u.sum()
    dynamics = module.dynamics
    assert isinstance(dynamics, LayerDynamics)
    f = problems._of_layers[dynamics].problem.f
    before = int(f.calls)
    loss.backward()
    return int(f.calls) - before


def test_f_is_not_called_on_the_way_back() -> None:
    assert calls_on_the_way_back(True) == 0
    assert calls_on_the_way_back(False) > 20


def test_what_auto_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_on_the_way_back("auto") == 0
    monkeypatch.setattr(kept, "AUTO", 20_000)
    assert 0 < calls_on_the_way_back("auto") < calls_on_the_way_back(False)
    assert_the_same(keep_stages="auto")


def test_inputs_beside_the_state() -> None:
    layers = plr.Chain(plr.Dense(3, 16, "tanh"), plr.Dense(16, 2), injected=1)

    def of_inputs(keep_stages: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = plr.NeuralODE(layers, engine="julia", keep_stages=keep_stages).double()
        x, u0 = normal(4, 1).requires_grad_(), normal(4, 2)
        return gradients(module(u0, inputs=x).u.square().sum(), module, x)

    assert_close(of_inputs(True), of_inputs(False), rtol=1e-12)


def test_a_second_backward() -> None:
    module, u0 = node(), normal(4, 3).requires_grad_()
    loss = module(u0).u.square().sum()
    first = torch.autograd.grad(loss, u0, retain_graph=True)
    second = torch.autograd.grad(loss, u0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dynamics", "options"),
    [
        (lambda t, u: -u, {}),
        (plr.Chain(plr.GroupNorm(3, 1), plr.Dense(3, 3)), {}),
        (WIDE, {"regularizer": plr.TayNODE(2)}),
        (WIDE, {"solver": "Rodas5P"}),
        (WIDE, {"adjoint": "gauss"}),
        (WIDE, {"checkpoints": 3}),
    ],
)
def test_what_keeps_no_stages_is_refused(dynamics: Any, options: dict[str, Any]) -> None:
    with pytest.raises(plr.errors.OptionError, match="keep_stages"):
        plr.NeuralODE(dynamics, engine="julia", keep_stages=True, **options)


def test_auto_takes_the_engine_that_keeps_them() -> None:
    assert plr.NeuralODE(WIDE, keep_stages=True).engine.name == "julia"
    assert plr.NeuralODE(lambda t, u: -u, keep_stages=True).engine.name == "torch"


def test_dynamics_that_are_called_back_after_all_are_refused() -> None:
    module = node()
    module.dynamics.register_forward_hook(lambda *_: None)
    with pytest.raises(plr.errors.OptionError, match="called back"):
        module(normal(4, 3))
