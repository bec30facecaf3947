"""From which NFE on a regularizer can save anything: ``python -m benchmarks.floor``.

The networks of the two MNIST experiments as they are initialized, all their weights times a factor. The
smaller the factor, the less there is to follow; what the solver still takes is its own ramp from the first
step, which no regularizer shortens. ``--records FILE`` keeps a line a solve.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.records import Records

FACTORS = (0.01, 0.1, 0.3, 1.0, 2.0, 3.0)
BATCH, PIXELS, WIDTH = 512, 784, 32


def _node(tolerance: float) -> plr.NeuralODE:
    layers = plr.TimeDependent(plr.Dense(PIXELS, 100, "tanh"), plr.Dense(100, PIXELS))
    return plr.NeuralODE(layers, abstol=tolerance, reltol=tolerance, engine="torch")


def _sde(**options: Any) -> plr.NeuralSDE:
    drift = plr.Chain(plr.Dense(WIDTH, 64, "tanh"), plr.Dense(64, WIDTH))
    diffusion = plr.Chain(plr.Dense(WIDTH, WIDTH))
    return plr.NeuralSDE(
        drift, diffusion, solver="SOSRI2", abstol=0.14, reltol=0.14, engine="torch", **options
    )


Build = Callable[[], plr.NeuralODE | plr.NeuralSDE]

PROBLEMS: dict[str, tuple[Build, torch.dtype, int]] = {
    "neural ODE, 1e-8, float64": (lambda: _node(1e-8), torch.float64, PIXELS),
    "neural ODE, 1e-5, float32": (lambda: _node(1e-5), torch.float32, PIXELS),
    "neural SDE, 0.14": (_sde, torch.float32, WIDTH),
    "neural SDE, 0.14, `qmax=10`": (lambda: _sde(qmax=10.0), torch.float32, WIDTH),
}


def solve(name: str, factor: float) -> dict[str, Any]:
    """NFE and largest error estimate of one solve."""
    build, dtype, width = PROBLEMS[name]
    torch.manual_seed(0)
    module = build().to(dtype)
    u0 = torch.rand(BATCH, width, dtype=dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(factor)
        torch.manual_seed(0)
        solution = module(u0)
    largest = float(solution.steps.EEst.max())
    return {"name": name, "factor": factor, "nfe": solution.stats.nfe, "EEst": largest}


def table(runs: list[dict[str, Any]]) -> str:
    factors = sorted({run["factor"] for run in runs})
    rows = [
        f"| weights times | {' | '.join(f'{factor:g}' for factor in factors)} |",
        "|---" + "|---:" * len(factors) + "|",
    ]
    for name in dict.fromkeys(run["name"] for run in runs):
        found = {run["factor"]: run["nfe"] for run in runs if run["name"] == name}
        rows.append(f"| {name} | {' | '.join(str(found.get(factor, '')) for factor in factors)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="NFE of networks that have less and less to follow")
    parser.add_argument("--records", type=Path, default=Path("results/floor.jsonl"))
    options = parser.parse_args()
    records = Records(options.records)
    for name in PROBLEMS:
        for factor in FACTORS:
            if not records.has(name=name, factor=factor):
                records.add(solve(name, factor))
    print(table(records.runs))


if __name__ == "__main__":
    main()
