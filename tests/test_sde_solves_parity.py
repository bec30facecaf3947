"""Whole adaptive solves of SDEs against those of the real stack, which make_sde_solves wrote down."""

import json
from typing import Any

import numpy as np
import pytest

from tests.make_sde_solves import FILE, solve

CASES = json.loads(FILE.read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['solver']}-{case['tol']}")
def test_the_stacks_steps(case: dict[str, Any]) -> None:
    solution = solve(case["solver"], case["tol"], "torch")
    assert (solution.stats.naccept, solution.stats.nreject) == (case["naccept"], case["nreject"])
    np.testing.assert_allclose(solution.steps.t, case["t"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(solution.u.flatten().numpy(), case["u"], rtol=1e-6, atol=1e-8)
