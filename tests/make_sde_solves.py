"""``python -m tests.make_sde_solves``: whole adaptive solves of SDEs by the real stack, written down."""

import json
from pathlib import Path

import torch

import pylocalreg as plr
from tests.conftest import normal
from tests.sde import sde

FILE = Path(__file__).parent / "data" / "sde_solves.json"
ADAPTIVE = ("SOSRI", "SOSRI2", "SRIW1", "RKMilCommute", "LambaEulerHeun")
TOLERANCES = (0.1, 0.02)


def solve(solver: str, tol: float, engine: str) -> plr.Solution:
    """The steps from a fixed state along a fixed path."""
    node = sde(solver, engine=engine, abstol=tol, reltol=tol, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        solution: plr.Solution = node(normal(4, 3))
    return solution


def main() -> None:
    cases = []
    for solver in ADAPTIVE:
        for tol in TOLERANCES:
            solution = solve(solver, tol, "julia")
            stats, u = solution.stats, solution.u.flatten().tolist()
            counts = {"naccept": stats.naccept, "nreject": stats.nreject}
            cases.append({"solver": solver, "tol": tol, **counts, "t": solution.steps.t.tolist(), "u": u})
    FILE.write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
