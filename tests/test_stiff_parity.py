"""The stiff solvers against the steps of the real SciML stack.

tests/data/stiff.npz was computed by the Julia engine: Julia 1.10.2, OrdinaryDiffEqRosenbrock 2.4.0.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Keep, Problem
from tests.golden import DATA, distance
from tests.julia import ENGINES

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def van_der_pol(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    x, y = u[..., 0], u[..., 1]
    return torch.stack([y, 100.0 * ((1 - x * x) * y - x)], dim=-1)


def robertson(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    a, b, c = u
    slow, fast = 0.04 * a, 1e4 * b * c
    quick = 3e7 * b * b
    return torch.stack([fast - slow, slow - fast - quick, quick])


def forced(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -50.0 * (u - torch.cos(3.0 * t)) + torch.tanh(u.flip(-1))


DYNAMICS: dict[str, tuple[Function, torch.Tensor, tuple[float, float]]] = {
    "van_der_pol": (van_der_pol, torch.tensor([[2.0, 0.0], [1.5, 0.5]], dtype=torch.float64), (0.0, 1.5)),
    "robertson": (robertson, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), (0.0, 40.0)),
    "forced": (forced, torch.tensor([[0.3, -0.4], [1.0, 2.0]], dtype=torch.float64), (0.0, 2.0)),
}
TOLERANCES = {"Rodas5": (1e-5, 1e-8), "Rodas5P": (1e-5, 1e-8), "Rosenbrock23": (1e-3, 1e-5)}
CASES = {
    f"{model}_{solver}_{tol:.0e}": (model, solver, tol)
    for model in DYNAMICS
    for solver, tols in TOLERANCES.items()
    for tol in tols
}


@cache
def _golden() -> dict[str, npt.NDArray[Any]]:
    with np.load(DATA / "stiff.npz") as file:
        return dict(file)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, engine: str) -> None:
    model, solver, tol = CASES[name]
    f, u0, tspan = DYNAMICS[model]
    golden = {field: _golden()[f"{name}/{field}"] for field in ("t", "eest", "u_end", "nreject")}
    problem = Problem(f, (), tspan, solver, tol, tol, 100_000)
    trajectory = get_engine(engine).solve(problem, u0, [tspan[1]], Keep())
    assert trajectory.naccept == len(golden["eest"])
    assert trajectory.nreject == int(golden["nreject"])
    # at 1e-8 an estimate is the rest of a sum 1e8 times as large, of solutions of linear systems
    times_bound, estimate_bound = (1e-4, 1e-3) if tol < 1e-6 else (1e-6, 1e-4)
    times = np.array([*trajectory.t, tspan[1]])
    np.testing.assert_allclose(times, golden["t"], rtol=times_bound, atol=0)
    np.testing.assert_allclose(trajectory.EEst, golden["eest"], rtol=estimate_bound)
    assert distance(trajectory.outputs[0], golden["u_end"]) < 1e-8
