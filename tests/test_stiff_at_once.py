"""``compile=True`` with Rosenbrock methods: solves of small systems in one call, as by the time loop."""

import warnings
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS
from tests.conftest import Net, normal
from tests.test_at_once import Done, assert_same_steps, done
from tests.test_captured import assert_same
from tests.test_compiled import pair

__all__ = ["done"]

pytestmark = pytest.mark.skipif(inductor.unfit() is not None, reason=str(inductor.unfit()))


class VanDerPol(torch.nn.Module):
    """Stiff, and pushed by something that depends on the time."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = torch.nn.Parameter(torch.tensor(200.0, dtype=torch.float64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        x, y = u.unbind()
        return torch.stack([y, self.mu * ((1 - x * x) * y - x) + torch.sin(3 * t)])


START = torch.tensor([2.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "solver",
    ["Rodas5P", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("Rodas5", "Rosenbrock23"))],
)
def test_every_method(done: Done, solver: str) -> None:
    assert_same(*pair(VanDerPol(), solver=solver, tspan=(0.0, 0.5), abstol=1e-4, reltol=1e-4), START)
    assert done.solves == [True]


def test_steps_are_those_of_the_time_loop(done: Done) -> None:
    options: dict[str, Any] = {"solver": "Rosenbrock23", "dt": 0.1, "tspan": (0.0, 0.1)}
    stats = assert_same_steps(*pair(**options, abstol=1e-6, reltol=1e-6), normal(2, 3))
    assert stats.nreject > 0
    assert all(done.solves)


def test_times_inside_the_span_backwards(done: Done) -> None:
    saveat = [0.1, *torch.linspace(0.09, -0.04, 20).tolist(), -0.05]
    assert_same(*pair(solver="Rosenbrock23", tspan=(0.1, -0.05), saveat=saveat), normal(2, 3))
    assert done.solves == [True]


def test_a_regularizer(done: Done) -> None:
    regularizer = plr.LocalRegularizer("biased", generator=torch.Generator())
    assert_same(*pair(solver="Rosenbrock23", tspan=(0.0, 0.1), regularizer=regularizer), normal(2, 3))
    assert done.solves == [True]


class Growing(torch.nn.Module):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return u


def test_a_singular_system_is_a_step_rejected(done: Done) -> None:
    gamma = ROSENBROCK_TABLEAUS["Rosenbrock23"].gamma
    dt = 1 / gamma
    assert gamma * dt == 1
    one, other = pair(Growing(), solver="Rosenbrock23", dt=dt, tspan=(0.0, 5.0))
    with torch.no_grad():
        left, right = one(START), other(START)
    assert left.stats == right.stats
    assert left.stats.nreject > 0
    torch.testing.assert_close(left.u, right.u, rtol=1e-9, atol=0)
    assert done.solves == [True]


class Detaching(VanDerPol):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = super().forward(t, u) * u.detach().norm()
        return k


def test_what_the_dynamics_detach_is_said(done: Done) -> None:
    _, other = pair(Detaching(), solver="Rosenbrock23")
    with torch.no_grad(), pytest.raises(plr.errors.JacobianError, match="detach"):
        other(START)


@pytest.mark.parametrize(
    ("options", "shape"),
    [({"jacobian": "per_sample"}, (2, 3)), ({}, (11, 3)), ({"tstops": [0.05]}, (2, 3))],
)
def test_what_runs_uncompiled_says_so_once(options: dict[str, Any], shape: tuple[int, int]) -> None:
    one, other = pair(Net(3), solver="Rosenbrock23", tspan=(0.0, 0.1), **options)
    with pytest.warns(UserWarning, match="steps by Rosenbrock23 runs uncompiled"):
        assert_same(one, other, normal(*shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(one, other, normal(*shape))


def test_by_inductor() -> None:
    one, other = pair(VanDerPol(), solver="Rosenbrock23", tspan=(0.0, 0.5), abstol=1e-4, reltol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert_same(one, other, START)
