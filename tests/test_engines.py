"""Which engine a solve takes."""

import logging

import pytest
import torch

import pylocalreg as plr
from pylocalreg import engines
from pylocalreg.engines.torch_engine import TorchEngine
from pylocalreg.errors import OptionError
from tests.julia import needs_julia


class Narrow(TorchEngine):
    """An engine that has no VCAB3."""

    name = "narrow"

    def check(self, solver: str, *args: object, **more: object) -> bool:
        if solver == "VCAB3":
            raise OptionError("narrow: no VCAB3")
        return super().check(solver, *args, **more)  # type: ignore[arg-type]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where "auto" is the narrow engine."""
    monkeypatch.setattr(engines, "_chosen", Narrow)


def test_auto_takes_the_embedded_engine_for_what_the_other_refuses(
    narrow: None, caplog: pytest.LogCaptureFixture
) -> None:
    u0 = torch.ones(2)
    with caplog.at_level(logging.WARNING, "pylocalreg"):
        assert plr.NeuralODE(lambda t, u: -u)(u0).engine == "narrow"
        assert not caplog.messages
        assert plr.NeuralODE(lambda t, u: -u, solver="VCAB3")(u0).engine == "torch"
    assert "narrow: no VCAB3" in caplog.text


def test_auto_refuses_what_no_engine_has(narrow: None) -> None:
    with pytest.raises(OptionError, match="embedded engine"):
        plr.NeuralODE(lambda t, u: -u, solver="Tsit6")


def test_auto_solves_on_other_devices_with_the_embedded_engine(narrow: None) -> None:
    node = plr.NeuralODE(lambda t, u: -u)
    assert node._engine_on(torch.device("cpu")).name == "narrow"
    assert node._engine_on(torch.device("cuda")).name == "torch"


@needs_julia
def test_auto_on_a_machine_with_julia() -> None:
    u0 = torch.ones(2)
    assert plr.NeuralODE(lambda t, u: -u)(u0).engine == "julia"
