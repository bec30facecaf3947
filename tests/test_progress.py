"""The bar of a long solve."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import NonFiniteError, OptionError, StepUnderflowError
from tests.conftest import Net, normal
from tests.julia import ENGINES

POSTFIX = re.compile(r"(\d+)%\|[^\r]*t = ([\d.e+-]+), (\d+) steps, (\d+) NFE, dt = ([\d.e+-]+)\]")


def bars() -> set[Any]:
    from tqdm.auto import tqdm

    return set(getattr(tqdm, "_instances", ()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tspan", [(0.0, 3.0), (3.0, 1.0)])
def test_the_bar_ends_with_the_solve_s_counts(
    tspan: tuple[float, float], engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    u0 = normal(2, 3).requires_grad_()
    solution = plr.NeuralODE(Net(3), tspan, engine=engine, progress=True, adjoint="interpolating")(u0)
    shown = POSTFIX.findall(capfd.readouterr().err)
    assert [int(x) for x in shown[-1][2:4]] == [solution.stats.naccept, solution.stats.nfe]
    assert shown[-1][0] == "100"
    assert float(shown[-1][1]) == pytest.approx(tspan[1])
    assert float(shown[-1][4]) == pytest.approx(solution.steps.dt[-1], rel=0.05)
    assert not bars()
    torch.autograd.grad(solution.u.sum(), u0)
    assert not POSTFIX.search(capfd.readouterr().err)  # the solve alone has one


@pytest.mark.parametrize("engine", ENGINES)
def test_sdes_have_one_too(engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    sde = plr.NeuralSDE(Net(3), Net(3, seed=1), engine=engine, progress=True)
    solution = sde(normal(2, 3))
    shown = POSTFIX.findall(capfd.readouterr().err)
    assert [int(x) for x in shown[-1][2:4]] == [solution.stats.naccept, solution.stats.nfe]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_bar_where_none_is_asked_for(engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    plr.NeuralODE(Net(3), engine=engine)(normal(3))
    assert "NFE" not in capfd.readouterr().err


def test_the_bar_changes_nothing() -> None:
    plain, followed = (plr.NeuralODE(Net(3), engine="torch", progress=on)(normal(3)) for on in (False, True))
    assert followed.stats == plain.stats
    torch.testing.assert_close(followed.u, plain.u, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("progress", [False, True])
def test_keyboard_interrupt(progress: bool, engine: str) -> None:
    net, calls = Net(3), 0

    def interrupted(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 100:
            os.kill(os.getpid(), signal.SIGINT)
        k: torch.Tensor = net(t, u)
        return k

    ode = plr.NeuralODE(
        interrupted, (0.0, 1e6), engine=engine, progress=progress, params=list(net.parameters())
    )
    u0 = normal(2, 3).requires_grad_()
    # whoever starts the tests in the background of a shell has them ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ode(u0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 100 <= calls < 200
    assert not bars()
    ode.tspan = (0.0, 1.0)
    wanted = plr.NeuralODE(net, (0.0, 1.0), engine=engine)(u0)
    solution = ode(u0)
    torch.testing.assert_close(solution.u, wanted.u, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(s.u.sum(), (u0, net.w1)) for s in (solution, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_an_error_closes_the_bar() -> None:
    with pytest.raises((NonFiniteError, StepUnderflowError)):
        plr.NeuralODE(lambda t, u: u * u, (0.0, 2.0), engine="torch", progress=True)(torch.ones(1))
    assert not bars()


@pytest.mark.parametrize("progress", [None, 1, "yes"])
def test_what_is_no_bool(progress: Any) -> None:
    with pytest.raises(OptionError, match=f"progress = {progress!r}"):
        plr.NeuralODE(Net(3), engine="torch", progress=progress)


def test_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tqdm" else found(name))
    for build in (
        lambda: plr.NeuralODE(Net(3), engine="torch", progress=True),
        lambda: plr.NeuralSDE(Net(3), Net(3), engine="torch", progress=True),
    ):
        with pytest.raises(
            OptionError, match=r"progress=True needs tqdm: pip install 'pylocalreg\[progress\]'"
        ):
            build()
    plr.NeuralODE(Net(3), engine="torch")(normal(3))


def test_tqdm_is_loaded_for_a_bar_alone() -> None:
    code = (
        "import sys, torch, pylocalreg as plr;"
        "plr.NeuralODE(lambda t, u: -u, engine='torch')(torch.ones(1));"
        "assert 'tqdm.auto' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
