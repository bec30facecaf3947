"""`pylocalreg install-julia`: what it asks juliapkg for, what it says, and that it believes a solve alone."""

import shutil
from types import SimpleNamespace
from typing import Any

import juliapkg
import pytest
import torch

from pylocalreg import cli, install_julia
from pylocalreg.engines.julia_engine.start import LUXCUDA
from pylocalreg.engines.packages import PACKAGES
from pylocalreg.errors import EngineUnavailableError, OptionError
from tests.julia import needs_julia

ABOUT = SimpleNamespace(call=lambda name: ("1.11.7", {"OrdinaryDiffEq": "7.0.0"}, 1))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """What juliapkg is asked for, on a machine where all goes well."""
    packages: list[tuple[str, dict[str, str]]] = []
    for name in ("EXE", "PROJECT"):
        monkeypatch.delenv(f"PYTHON_JULIACALL_{name}", raising=False)
    monkeypatch.setattr(juliapkg, "add", lambda name, **more: packages.append((name, more)))
    monkeypatch.setattr(juliapkg, "resolve", lambda: True)
    monkeypatch.setattr(install_julia, "start", lambda: ABOUT)
    solved = install_julia._solve
    monkeypatch.setattr(install_julia, "_solve", lambda engine: solved("torch"))
    return packages


def test_each_step_is_said(
    asked: list[tuple[str, dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    install_julia.install()
    printed = capsys.readouterr().out
    assert asked == []
    for said in ("1 of 3", "GB are free", "2 of 3", "OrdinaryDiffEq 7.0.0", "3 of 3", "the same", "is ready"):
        assert said in printed


def test_packages_are_added(asked: list[tuple[str, dict[str, str]]]) -> None:
    names = ["OrdinaryDiffEqSDIRK", "OrdinaryDiffEqBDF"]
    install_julia.install(cuda=True, add=names)
    assert asked == [("LuxCUDA", LUXCUDA), *((name, {"uuid": PACKAGES[name].uuid}) for name in names)]


def test_an_unknown_package_is_refused(asked: list[tuple[str, dict[str, str]]]) -> None:
    with pytest.raises(OptionError, match="Sundails"):
        install_julia.install(add=["Sundails"])
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_too_little_room_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError

    monkeypatch.setattr(juliapkg, "resolve", never)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.2e9))
    with pytest.raises(EngineUnavailableError, match=r"1\.2 GB of free disk.*4 GB"):
        install_julia.install()


@pytest.mark.usefixtures("asked")
def test_what_juliapkg_can_not_do_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(juliapkg, "resolve", offline)
    with pytest.raises(EngineUnavailableError, match=r"no route to host.*the same command goes on"):
        install_julia.install()


@pytest.mark.usefixtures("asked")
def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(juliapkg, "resolve", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["install-julia"])
    assert ended.value.code == 130
    assert "stopped; the same command goes on from there" in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("wrong", ["value", "gradient", "steps"])
def test_a_wrong_solve_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    solved = install_julia._solve

    def other(engine: str) -> Any:
        (u, by_u0, by_p), steps = solved("torch")
        if engine == "julia":
            off = torch.full_like(u, 1e-7)
            u, by_p = u + off * (wrong == "value"), by_p + off[0] * (wrong == "gradient")
            steps += wrong == "steps"
        return [u, by_u0, by_p], steps

    monkeypatch.setattr(install_julia, "_solve", other)
    with pytest.raises(EngineUnavailableError, match="pylocalreg doctor"):
        install_julia.install()
    assert "is ready" not in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_nothing_is_added_to_a_julia_of_the_user_s_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never() -> None:
        raise AssertionError

    monkeypatch.setattr(juliapkg, "resolve", never)
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "/mine/julia")
    install_julia.install()
    assert "/mine/julia" in capsys.readouterr().out
    with pytest.raises(OptionError, match="of your own"):
        install_julia.install(cuda=True)


@needs_julia
def test_a_real_julia_is_checked() -> None:
    install_julia._check_solve()
