"""One step of every adaptive SDE method against the numbers of the real SciML stack (tests/data)."""

import dataclasses

import pytest
import torch

from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Keep, Problem
from pylocalreg.engines.torch_engine.methods import SDE_METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from tests.golden import Case, GivenPath, distance, names
from tests.julia import ENGINES

CASES = names("sde_step")


def _problem(case: Case) -> Problem:
    count = int(case["n_drift"])
    p = torch.from_numpy(case["p"])
    drift = case.dynamics("drift", p[:count])
    diffusion = case.dynamics("diffusion", p[count:])
    t, tolerance = case.about["t"], case.about["tol"]
    noise = GivenPath(case.state("dW"), case.state("dZ"))
    return Problem(
        drift,
        (*drift.parameters(), *diffusion.parameters()),
        (t, 1.0),
        case.about["alg"],
        tolerance,
        tolerance,
        1,
        float(case["dt"]),
        g=diffusion,
        noise=noise,
    )


@pytest.mark.parametrize("name", CASES)
def test_step(name: str) -> None:
    case = Case.load(name)
    problem = _problem(case)
    method = SDE_METHODS[problem.solver]
    stepper = method.stepper(RightHandSide.of(problem), case.state("u0"), problem)
    with torch.no_grad():
        u1, EEst = stepper.attempt(problem.tspan[0], case.state("u0"), float(case["dt"]), None)
    assert distance(u1.T, case["u1"]) < 1e-14
    assert EEst == pytest.approx(float(case["eest"]), rel=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_solve_of_one_step(name: str, engine: str) -> None:
    case = Case.load(name)
    whole = _problem(case)
    end = whole.tspan[0] + float(case["dt"])
    problem = dataclasses.replace(whole, tspan=(whole.tspan[0], end), adaptive=False)
    trajectory = get_engine(engine).solve(problem, case.state("u0"), [end], Keep())
    assert trajectory.naccept == 1
    assert distance(trajectory.outputs[0].T, case["u1"]) < 1e-13


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_estimate_under_autograd(name: str, engine: str) -> None:
    case = Case.load(name)
    problem = _problem(case)
    dt = float(case["dt"])
    value, calls = get_engine(engine).estimate(
        problem, "error", problem.tspan[0], case.state("u0"), dt, "exact"
    )
    assert float(value.detach()) == pytest.approx(float(case["eest"]) * dt, rel=1e-10)
    assert calls.f >= 2
    assert calls.diffusion >= 2


def test_every_adaptive_method_has_cases() -> None:
    adaptive = {name for name, method in SDE_METHODS.items() if "error" in method.estimates}
    assert {Case.load(name).about["alg"] for name in CASES} == adaptive
