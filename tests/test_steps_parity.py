"""tstops, dtmin, dtmax and the controller's constants against the numbers of the real SciML stack.

tests/make_steps.py wrote them to tests/data/steps.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.julia_engine.start import start
from pylocalreg.errors import StepUnderflowError
from tests.julia import ENGINES

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "steps.json").read_text())
SUCCEEDED = [case for case in CASES if case["retcode"] == "Success"]
FAILED = [case for case in CASES if case["retcode"] != "Success"]


def oscillator(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.stack([u[1], t * (1 - t) - u[0] - u[0] * u[0] * u[0]])


def name(case: dict[str, Any]) -> str:
    return f"{case['solver']}-{case['kind']}"


def clamps_first_step(engine: str) -> bool:
    """Whether this stack's automatic first step is no longer than the way to the first stop, as it was not in
    the stack that wrote the numbers (OrdinaryDiffEq.jl #4254, after OrdinaryDiffEqCore 4.14.3).
    """
    if engine != "julia":
        return False
    _, packages, _ = start().call("about")
    return tuple(map(int, str(packages["OrdinaryDiffEqCore"]).split("."))) > (4, 14, 3)


@torch.no_grad()
def solved(case: dict[str, Any], engine: str) -> plr.Solution:
    options = dict(case["options"])
    if "dt" in options:
        options["adaptive"] = False
    stiff = case["solver"].startswith("Ro")
    node = plr.NeuralODE(
        oscillator,
        case["tspan"],
        solver=case["solver"],
        abstol=case["tol"],
        reltol=case["tol"],
        engine=engine,
        adjoint="interpolating" if stiff else "discrete",
        **options,
    )
    solution: plr.Solution = node(torch.tensor(case["u0"], dtype=torch.float64))
    return solution


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", SUCCEEDED, ids=name)
def test_the_stack_s_steps(case: dict[str, Any], engine: str) -> None:
    if case["kind"] == "near" and clamps_first_step(engine):
        pytest.skip("the stack's first step goes by the first stop now: #4254")
    solution = solved(case, engine)
    stats = solution.stats
    assert (stats.naccept, stats.nreject) == (case["naccept"], case["nreject"])
    if not case["solver"].startswith("Ro"):  # whose Jacobian is made of calls that the stack counts otherwise
        assert stats.nf == case["nf"]
    times = [*solution.steps.t, case["tspan"][1]]
    # the controller takes powers in single precision: a rounding of a small EEst moves the next times by
    # 1e-7, and after a step that a stop cut to nothing EEst is rounding
    bound = 1e-3 if case["kind"] == "near" or case["solver"] == "Rodas5" else 1e-5
    np.testing.assert_allclose(times, case["t"], rtol=0, atol=bound)
    np.testing.assert_allclose(solution.u, case["u_end"], rtol=0, atol=10 * case["tol"])
    assert set(case["options"].get("tstops", ())) <= set(solution.steps.t)


@pytest.mark.parametrize("engine", ENGINES)
def test_most_times_to_rounding(engine: str) -> None:
    same = [
        np.allclose([*solved(case, engine).steps.t, case["tspan"][1]], case["t"], rtol=0, atol=1e-11)
        for case in SUCCEEDED
        if not (case["kind"] == "near" and clamps_first_step(engine))
    ]
    assert np.mean(same) > 0.6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", FAILED, ids=name)
def test_where_the_stack_gives_up(case: dict[str, Any], engine: str) -> None:
    assert case["retcode"] == "DtLessThanMin"
    with pytest.raises(StepUnderflowError, match="is not above dtmin"):
        solved(case, engine)


def test_there_are_cases_of_both_kinds() -> None:
    assert len(SUCCEEDED) > 60
    assert len(FAILED) > 3
