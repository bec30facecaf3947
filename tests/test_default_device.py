"""A default device is for the user's tensors: those of a solve lie where its state is, or on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.explicit_rk.reversed_at_once import AtOnceReplay
from pylocalreg.integrations import torchdiffeq
from tests.conftest import Net, assert_close, gradients, normal
from tests.test_at_once import Done

Run = Callable[[], list[torch.Tensor]]
"""Solves, with what was made before."""


def of(node: torch.nn.Module) -> Run:
    u0 = normal(4, 3).requires_grad_()

    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        solution = node(u0)
        loss = solution.u.sin().sum()
        if solution.regularization is not None:
            loss = loss + solution.regularization
        return [solution.u.detach(), *gradients(loss, node, u0)]

    return run


def ode(**options: Any) -> Run:
    return of(plr.NeuralODE(Net(3), engine="torch", **options))


def sde(**options: Any) -> Run:
    return of(plr.NeuralSDE(Net(3), Net(3), engine="torch", abstol=0.14, reltol=0.14, **options))


def odeint() -> Run:
    u0, f, times = normal(4, 3).requires_grad_(), Net(3), torch.tensor([0.0, 0.3, 1.0])
    given: Any = {"atol": torch.full((4, 3), 1e-6), "options": {"step_t": torch.tensor([0.2])}}

    def run() -> list[torch.Tensor]:
        u = torchdiffeq.odeint(f, u0, times, **given)
        assert isinstance(u, torch.Tensor)
        return [u.detach(), *gradients(u.sin().sum(), f, u0)]

    return run


def alone() -> Run:
    u0, f = normal(4, 3).requires_grad_(), Net(3)

    def run() -> list[torch.Tensor]:
        R = plr.local_error(f, u0, 0.1, 0.2, abstol=1e-3, reltol=1e-3)
        return [R.detach(), *gradients(R, f, u0)]

    return run


def state() -> Run:
    node, u0 = plr.NeuralODE(Net(3), engine="torch", dt="last"), normal(4, 3)

    def run() -> list[torch.Tensor]:
        node(u0)
        return [x for x in node.state_dict().values() if isinstance(x, torch.Tensor)]

    return run


MAKE: dict[str, Callable[[], Run]] = {
    "unbiased": lambda: ode(regularizer=plr.LocalRegularizer("unbiased"), saveat=[0.2, 1.0]),
    "biased": lambda: ode(regularizer=plr.LocalRegularizer("biased", samples=2), checkpoints=2),
    "RNODE": lambda: ode(regularizer=plr.RNODE()),
    "STEER": lambda: ode(regularizer=plr.STEER(0.2)),
    "stiff": lambda: ode(solver="Rosenbrock23", abstol=1e-2, reltol=1e-2),
    "Adams": lambda: ode(solver="VCAB3"),
    "kept": lambda: ode(keep_stages="auto", tstops=[0.3]),
    "SDE": lambda: sde(regularizer=plr.LocalRegularizer("unbiased"), trajectories=2),
    "odeint": odeint,
    "alone": alone,
    "state": state,
}


@pytest.mark.parametrize("name", MAKE)
def test_what_it_changes(name: str) -> None:
    run, other = MAKE[name](), MAKE[name]()
    expected = run()
    with torch.device("meta"):
        assert_close(other(), expected, rtol=0)


@pytest.mark.skipif(inductor.unfit() is not None, reason=str(inductor.unfit()))
def test_what_it_changes_of_compiled_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "BACKEND", lambda graph, examples: graph.forward)
    done = Done()
    monkeypatch.setattr(AtOnceReplay, "_run", done.noting(AtOnceReplay._run, done.adjoints))
    plain, compiled = ode(solver="BS3"), ode(solver="BS3", compile=True)
    expected = plain()
    with torch.device("meta"):
        assert_close(compiled(), expected, rtol=1e-8)
    assert done.adjoints == [True]
