"""Every regularizer on the digits classifier, over seeds: ``python -m benchmarks.digits --seeds 5``.

The demo's experiment (64-d neural ODE, Tsit5 at 1e-6, float64, 240 Adam steps). Each seed changes the split,
the weights, the batches and the sampled times; all methods of a seed share the first three.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.records import Records
from pylocalreg.experiments import digits

STEPS = 240


def exponential(start: float, end: float) -> plr.schedules.Exponential:
    return plr.schedules.Exponential(start, end, STEPS)


Setting = tuple[plr.Regularizer | None, Callable[[int], float] | None]

# A function each: a regularizer and a budget are of one run.
METHODS: dict[str, Callable[[], Setting]] = {
    "vanilla": lambda: (None, None),
    "local, unbiased": lambda: (plr.LocalRegularizer("unbiased"), plr.schedules.Constant(1.0)),
    "local, biased": lambda: (plr.LocalRegularizer("biased"), plr.schedules.Constant(1.0)),
    "local, biased, 2 samples": lambda: (
        plr.LocalRegularizer("biased", samples=2),
        plr.schedules.Constant(1.0),
    ),
    "local, biased, linear": lambda: (
        plr.LocalRegularizer("biased", scale="linear"),
        exponential(250, 100),
    ),
    "local, by importance": lambda: (
        plr.LocalRegularizer("biased", importance="estimate"),
        exponential(25, 10),
    ),
    "local, budget of 60 NFE": lambda: (plr.LocalRegularizer("biased"), plr.schedules.NFEBudget(60, 0.3)),
    "local stiffness": lambda: (
        plr.LocalRegularizer("biased", quantity="stiffness"),
        exponential(1.0, 0.3),
    ),
    "the paper's": lambda: (plr.LocalRegularizer.paper(), exponential(2.5, 1.0)),
    "global error": lambda: (plr.GlobalRegularizer(), exponential(25, 10)),
    "global stiffness": lambda: (plr.GlobalRegularizer("stiffness"), exponential(0.1, 0.03)),
    "STEER": lambda: (plr.STEER(0.5), None),
    "TayNODE, order 2": lambda: (plr.TayNODE(2), exponential(0.1, 0.03)),
    "RNODE": lambda: (plr.RNODE(), plr.schedules.Constant(0.3)),
}


def spread(values: Sequence[float], digits: int = 1) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(runs: Sequence[dict[str, Any]]) -> str:
    """By the records of runs; ratios are to the vanilla run of the same seed."""
    vanilla = {run["seed"]: run for run in runs if run["method"] == "vanilla"}
    rows = [
        "| method | test accuracy, % | NFE | ratio to vanilla | training time, median ratio | runs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(run["method"] for run in runs):
        its = [run for run in runs if run["method"] == name and run["seed"] in vanilla]
        columns = (
            name,
            spread([run["accuracy"] for run in its]),
            spread([run["nfe"] for run in its]),
            spread([run["nfe"] / vanilla[run["seed"]]["nfe"] for run in its], 2),
            f"{statistics.median(run['seconds'] / vanilla[run['seed']]['seconds'] for run in its):.2f}",
            str(len(its)),
        )
        rows.append(f"| {' | '.join(columns)} |")
    return "\n".join(rows)


def train(name: str, seed: int, steps: int) -> dict[str, Any]:
    """One run: accuracy and NFE at its end, and its training time."""
    regularizer, coefficient = METHODS[name]()
    config = digits.Config(name, regularizer, coefficient, steps, seed=seed)
    return digits.train(config, digits.load(seed), evaluate_every=steps).record


def main() -> None:
    parser = argparse.ArgumentParser(description="every regularizer on the digits classifier, over seeds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps a run")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--records", type=Path, default=Path("results/digits.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    records = Records(options.records)
    for seed in range(options.seeds):
        for name in options.methods:
            if records.has(method=name, seed=seed, steps=options.steps):
                continue
            run = train(name, seed, options.steps)
            records.add(run)
            print(f"seed {seed}, {name}: NFE {run['nfe']}, {run['accuracy']:.1f}%", flush=True)
    print(table(records.runs))


if __name__ == "__main__":
    main()
