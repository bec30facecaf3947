"""What can not be solved as an SDE is refused by name; what goes wrong on the way, with its numbers."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg import errors
from pylocalreg.dynamics import Chain, Dense
from tests.conftest import normal
from tests.julia import without_julia

U0 = normal(4, 3)


def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u


def g(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return 0.1 * u


def node(drift: Any = f, diffusion: Any = g, **options: Any) -> plr.NeuralSDE:
    return plr.NeuralSDE(drift, diffusion, **({"engine": "torch"} | options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise": "general"}, errors.OptionError, "noise='general'.*'scalar'"),
        ({"noise": "pink"}, errors.OptionError, "noise = 'pink'"),
        ({"solver": "Tsit5"}, errors.OptionError, "solves ODEs: take NeuralODE"),
        ({"solver": "SRIW9"}, errors.OptionError, "for SDEs it has"),
        ({"solver": "EM"}, errors.OptionError, "give their size, dt"),
        ({"solver": "EulerHeun", "dt": 0.1, "adaptive": True}, errors.OptionError, "no error estimate"),
        ({"adaptive": False}, errors.OptionError, "give their size, dt"),
        ({"tspan": (1.0, 0.0)}, errors.TimeSpanError, "runs backwards"),
        ({"tspan": (1.0, 1.0)}, errors.TimeSpanError, "empty"),
        ({"abstol": -1.0}, errors.ToleranceError, "abstol"),
        ({"saveat": [2.0]}, errors.SaveAtError, "outside"),
        ({"trajectories": 0}, errors.OptionError, "trajectories = 0"),
        ({"checkpoints": 0}, errors.OptionError, "checkpoints = 0"),
        ({"dt": 2.0}, errors.TimeSpanError, "dt = 2.0"),
        pytest.param({"engine": "julia"}, errors.EngineUnavailableError, "julia", marks=without_julia),
        ({"noise": "additive", "diffusion": Chain(Dense(3, 3))}, errors.OptionError, "a callable g"),
    ],
)
def test_refused_at_construction(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        node(**options)


def test_sde_solvers_are_not_for_odes() -> None:
    with pytest.raises(errors.OptionError, match="solves SDEs: take NeuralSDE"):
        plr.NeuralODE(f, solver="SOSRI2", engine="torch")
    with pytest.raises(errors.OptionError, match="solves SDEs"):
        plr.local_error(f, U0, 0.0, 0.1, solver="SOSRI2")


@pytest.mark.parametrize(
    ("diffusion", "options", "error", "message"),
    [
        (lambda t, u: u[:, :2], {}, errors.ShapeError, r"diffusion gave \(4, 2\)"),
        (lambda t, u: u.unsqueeze(-1).expand(4, 3, 2), {}, errors.ShapeError, r"diffusion gave \(4, 3, 2\)"),
        (lambda t, u: u[:, :1], {"noise": "scalar"}, errors.ShapeError, r"diffusion gave \(4, 1\)"),
        (lambda t: torch.ones(2), {"noise": "additive"}, errors.ShapeError, r"diffusion gave \(2,\)"),
        (lambda t: 1.0, {"noise": "additive"}, errors.ShapeError, "diffusion gave float"),
        (lambda t, u: u.float(), {}, errors.DtypeError, "diffusion gave torch.float32"),
        (lambda t, u: 0.1, {}, errors.ShapeError, "diffusion gave float"),
        (lambda t, u: u * float("nan"), {}, errors.NonFiniteError, "diffusion .* 12 NaN"),
        (lambda t, u: u / 0.0, {}, errors.NonFiniteError, "diffusion"),
        (lambda t, u: torch.where(t > 0.4, torch.inf, 0.1) * u, {}, errors.NonFiniteError, "at t = 0."),
    ],
)
def test_a_diffusion_that_can_not_be_used(
    diffusion: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(error, match=message):
        node(f, diffusion, **options)(U0)


def test_a_drift_that_can_not_be_used() -> None:
    with pytest.raises(errors.ShapeError, match="the drift gave"):
        node(lambda t, u: u[:, :2])(U0)
    with pytest.raises(errors.NonFiniteError, match=r"the drift .* 12 NaN"):
        node(lambda t, u: u * float("nan"))(U0)


@pytest.mark.parametrize("solver", ["EM", "EulerHeun"])
def test_fixed_steps_that_end_nowhere(solver: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(errors.NonFiniteError, match="take smaller steps"):
        node(lambda t, u: u**3, g, solver=solver, dt=0.1)(100 * U0)


def test_step_underflow() -> None:
    torch.manual_seed(0)
    jump = node(lambda t, u: torch.where(t > 0.5, 1e30, 0.0) * torch.ones_like(u), solver="SRIW1")
    with pytest.raises((errors.StepUnderflowError, errors.NonFiniteError), match=r"t = 0\.5"):
        jump(U0)


def test_step_limit() -> None:
    torch.manual_seed(0)
    with pytest.raises(errors.StepLimitError, match="maxiters = 5 steps"):
        node(maxiters=5, abstol=1e-5, reltol=1e-5)(U0)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (plr.BrownianPath(0.0, (4, 2), seed=0, dtype=torch.float64), errors.ShapeError, r"\(4, 2\)"),
        (plr.BrownianPath(0.0, (4, 3), seed=0), errors.DtypeError, "torch.float32"),
        (plr.BrownianPath(0.5, (4, 3), seed=0, dtype=torch.float64), errors.TimeSpanError, "starts at 0.5"),
    ],
)
def test_a_path_of_another_solve(path: plr.BrownianPath, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        node()(U0, noise=path)


def test_states_that_can_not_be_solved() -> None:
    with pytest.raises(errors.DtypeError, match=r"torch\.int64"):
        node()(torch.ones(3, dtype=torch.int64))
    with pytest.raises(errors.ShapeError, match="empty"):
        node()(torch.ones(0))
    with pytest.raises(errors.ShapeError, match="trajectories = 2"):
        node(trajectories=2)({"x": U0})
    with pytest.raises(errors.ToleranceError, match=r"abstol = 1e-300.*torch\.float32"):
        node(abstol=1e-300)(U0.float())
    with pytest.raises(errors.OptionError, match="without a regularizer"):
        node()(U0, regularize=True)
    with pytest.raises(errors.OptionError, match="dense"):
        node()(U0)(0.5)
    with pytest.raises(errors.SaveAtError, match="outside"):
        node()(U0, dense=True)(1.5)
