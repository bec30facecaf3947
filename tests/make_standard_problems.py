"""Writes tests/data/standard_problems.json: the solutions of the standard problems, and their derivatives
along one direction of the initial state and the parameters, by the variational equations, with SciPy.

    python -m tests.make_standard_problems
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp

from tests.standard_problems import PROBLEMS, StandardProblem

PLACE = Path(__file__).parent / "data" / "standard_problems.json"


def solved(problem: StandardProblem, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    u0, p = np.array(problem.u0, float), np.array(problem.p, float)
    by_u0 = rng.standard_normal(len(u0)) * (np.abs(u0) + 0.1 * np.abs(u0).max())
    by_p = rng.standard_normal(len(p)) * p
    params, along = torch.tensor(p), torch.tensor(by_p)

    def with_variation(t: float, z: Any) -> Any:
        u, s = torch.tensor(z).chunk(2)
        return torch.cat(torch.func.jvp(problem.f, (u, params), (s, along))).numpy()

    method = "LSODA" if problem.stiff else "DOP853"
    start = np.concatenate([u0, by_u0])
    run = solve_ivp(with_variation, (0, problem.end), start, method=method, rtol=1e-11, atol=1e-14)
    u, derivative = run.y[:, -1].reshape(2, -1)
    columns = {"u": u, "by_u0": by_u0, "by_p": by_p, "derivative": derivative}
    return {name: column.tolist() for name, column in columns.items()}


if __name__ == "__main__":
    every = {name: solved(problem, seed) for seed, (name, problem) in enumerate(PROBLEMS.items())}
    PLACE.write_text(json.dumps(every, indent=1) + "\n")
