"""keep_stages: the gradients of steps taken again, without taking them again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.explicit_rk import kept
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from tests.conftest import Net, assert_close, gradients, normal


class Counted(Net):
    calls = 0

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(t, u)


def node(keep_stages: Any = True, **options: Any) -> plr.NeuralODE:
    if options.get("solver", "Tsit5") in ("Euler", "RK4"):
        options |= {"dt": 0.25, "adaptive": False}
    return plr.NeuralODE(Counted(3), engine="torch", keep_stages=keep_stages, **options)


def loss_of(solution: plr.Solution) -> torch.Tensor:
    loss: torch.Tensor = solution.u.square().sum()
    return loss if solution.regularization is None else loss + 100 * solution.regularization


def of(node: plr.NeuralODE, **options: Any) -> tuple[plr.Stats, list[torch.Tensor]]:
    u0 = normal(4, 3).requires_grad_()
    solution = node(u0, **options)
    return solution.stats, gradients(loss_of(solution), node, u0)


def assert_the_same(**options: Any) -> None:
    def regularized(keep_stages: Any) -> plr.NeuralODE:
        given = dict(options)
        if "regularizer" in given:
            given["regularizer"] = given["regularizer"](torch.Generator().manual_seed(0))
        return node(keep_stages, **given)

    stats, ours = of(regularized(True))
    right_stats, right = of(regularized(False))
    assert stats == right_stats
    assert_close(ours, right, rtol=1e-12)


@pytest.mark.parametrize("solver", sorted(TABLEAUS))
def test_the_gradients_of_every_method(solver: str) -> None:
    assert_the_same(solver=solver)


@pytest.mark.parametrize("saveat", [(0.0, 0.3, 1.0), (0.1, 0.2, 0.25)])
def test_states_asked_for_inside_steps(saveat: tuple[float, ...]) -> None:
    assert_the_same(saveat=saveat)


@pytest.mark.parametrize(
    "regularizer",
    [
        lambda g: plr.LocalRegularizer("biased", generator=g),
        lambda g: plr.LocalRegularizer("biased", through_state=True, generator=g),
        lambda g: plr.LocalRegularizer("unbiased", generator=g),
        lambda g: plr.LocalRegularizer("biased", gradient="frozen", samples=3, generator=g),
        lambda g: plr.GlobalRegularizer(),
        lambda g: plr.GlobalRegularizer("stiffness"),
        lambda g: plr.TayNODE(2),
    ],
)
def test_regularizers(regularizer: Any) -> None:
    assert_the_same(regularizer=regularizer)


def test_steps_that_end_at_tstops_or_were_rejected() -> None:
    assert_the_same(tstops=[0.3, 0.31], dt=0.3, abstol=1e-8, reltol=1e-8)
    assert node(tstops=[0.3, 0.31], dt=0.3, abstol=1e-8, reltol=1e-8)(normal(4, 3)).stats.nreject > 0


def test_no_call_is_made_twice() -> None:
    module = node()
    counted = module.dynamics
    assert isinstance(counted, Counted)
    module(normal(4, 3)).u.sum().backward()
    kept_calls = counted.calls
    again = node(False)
    assert isinstance(again.dynamics, Counted)
    solution = again(normal(4, 3))
    forward = again.dynamics.calls
    assert kept_calls == forward + 1  # the first step's first stage
    solution.u.sum().backward()
    assert again.dynamics.calls > 1.8 * forward


def test_a_second_backward_takes_the_steps_again() -> None:
    module, u0 = node(), normal(4, 3).requires_grad_()
    loss = loss_of(module(u0))
    first = torch.autograd.grad(loss, u0, retain_graph=True)
    second = torch.autograd.grad(loss, u0)
    torch.testing.assert_close(first, second, rtol=1e-13, atol=0)


def test_what_auto_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def calls() -> int:
        module = node("auto")
        module(normal(4, 3)).u.sum().backward()
        assert isinstance(module.dynamics, Counted)
        return module.dynamics.calls

    everything = calls()
    monkeypatch.setattr(kept, "AUTO", 6000)
    some = calls()
    monkeypatch.setattr(kept, "AUTO", -1)
    assert everything < some < calls()
    monkeypatch.setattr(kept, "AUTO", 6000)
    _, ours = of(node("auto"))
    _, right = of(node(False))
    assert_close(ours, right, rtol=1e-12)


def _along(net: Net, u: torch.Tensor) -> torch.Tensor:
    found: Any = torch.func.jvp(lambda x: net(u.new_ones(()), x), (u,), (u.cos(),))
    k: torch.Tensor = found[0] + found[1]
    return k


def _energy(net: Net, u: torch.Tensor) -> torch.Tensor:
    slope: torch.Tensor = torch.func.grad(lambda x: net(u.new_ones(()), x).tanh().sum())(u)
    return slope


@pytest.mark.parametrize("transformed", [_along, _energy])
def test_auto_with_dynamics_that_do_not_tell_what_they_keep(
    transformed: Callable[[Net, torch.Tensor], torch.Tensor],
) -> None:
    class Transformed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(3)

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return transformed(self.net, u)

    found = [of(plr.NeuralODE(Transformed(), engine="torch", keep_stages=keep)) for keep in ("auto", False)]
    (stats, ours), (right_stats, right) = found
    assert stats == right_stats
    assert_close(ours, right, rtol=1e-12)


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    module = node()
    with torch.no_grad():
        u = module(normal(4, 3)).u
    assert not u.requires_grad
    torch.testing.assert_close(u, node(False)(normal(4, 3)).u, rtol=0, atol=0)


def test_dynamics_that_write_to_one_buffer() -> None:
    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return u.mul(self.w).sin_().neg_()

    def run(keep_stages: bool) -> torch.Tensor:
        field = Writes()
        module = plr.NeuralODE(field, engine="torch", keep_stages=keep_stages)
        module(normal(4, 3)).u.sum().backward()
        assert field.w.grad is not None
        return field.w.grad

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_stages": "yes"}, "give True, False or 'auto'"),
        ({"solver": "Rodas5P"}, "keep no stages"),
        ({"solver": "VCAB3"}, "keep no stages"),
        ({"adjoint": "backsolve"}, "keep no stages"),
        ({"checkpoints": 3}, "take one of them"),
        ({"compile": True}, "take one of them"),
    ],
)
def test_what_keeps_no_stages_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(plr.errors.OptionError, match=said):
        plr.NeuralODE(Net(3), **{"engine": "torch", "keep_stages": True, **options})


def test_a_node_that_keeps_stages_is_not_compiled() -> None:
    with pytest.raises(plr.errors.OptionError, match="take one of them"):
        plr.compile(node())
