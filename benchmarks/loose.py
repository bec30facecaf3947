"""Does a regularizer come loose? Long trainings of the digits classifier: ``python -m benchmarks.loose``.

Six times the demo's training steps, Tsit5 at 1e-6 in float64. A training step is loose that takes more than
1.5 times the median NFE of its run, a run that ends above 1.5 times the median of its candidate. Each has one
coefficient, chosen on seed 0 so that NFE is alike. ``--records FILE`` keeps a line a run: a call goes on
where an earlier one was stopped.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.digits import Setting, spread
from benchmarks.records import Records
from pylocalreg.experiments import digits

STEPS = 1440
LOOSE = 1.5


class RunningScale:
    """A coefficient over the running mean of the regularizer's own value: a pull without units."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.mean: float | None = None

    def __call__(self, step: int) -> float:
        return self.value if self.mean is None else self.value / self.mean

    def observe(self, regularization: float) -> None:
        old = regularization if self.mean is None else self.mean
        self.mean = 0.95 * old + 0.05 * regularization


def linear(samples: int = 1) -> plr.LocalRegularizer:
    return plr.LocalRegularizer("biased", scale="linear", samples=samples)


CANDIDATES: dict[str, Callable[[], Setting]] = {
    "vanilla": lambda: (None, None),
    "linear (was the default), 60": lambda: (linear(), plr.schedules.Constant(60.0)),
    "linear, 10 to 1": lambda: (linear(), plr.schedules.Exponential(10.0, 1.0, STEPS)),
    "linear, 4 samples, 60": lambda: (linear(4), plr.schedules.Constant(60.0)),
    "linear, budget of 36 NFE": lambda: (linear(), plr.schedules.NFEBudget(36, 60.0)),
    "linear over its running mean, 1": lambda: (linear(), RunningScale(1.0)),
    "log, biased, 1": lambda: (plr.LocalRegularizer("biased"), plr.schedules.Constant(1.0)),
    "log, unbiased, 1": lambda: (plr.LocalRegularizer("unbiased"), plr.schedules.Constant(1.0)),
    "log, biased, 0.1": lambda: (plr.LocalRegularizer("biased"), plr.schedules.Constant(0.1)),
    "log, biased, budget of 36 NFE": lambda: (
        plr.LocalRegularizer("biased"),
        plr.schedules.NFEBudget(36, 0.3),
    ),
}


def train(name: str, seed: int, steps: int) -> dict[str, Any]:
    """One run: accuracy and NFE at its end, NFE of every training step."""
    regularizer, coefficient = CANDIDATES[name]()
    counts = []

    def observe(solution: plr.Solution) -> None:
        counts.append(solution.stats.nfe - solution.stats.nfe_regularizer)
        if isinstance(coefficient, RunningScale) and solution.regularization is not None:
            coefficient.observe(float(solution.regularization.detach()))

    config = digits.Config(name, regularizer, coefficient, steps, seed=seed)
    last = digits.train(config, digits.load(seed), evaluate_every=steps, observe=observe).last
    late = counts[steps // 4 :]
    median = statistics.median(late)
    return {
        "name": name,
        "seed": seed,
        "steps": steps,
        "accuracy": last.accuracy,
        "nfe": last.nfe,
        "median": median,
        "loose_share": sum(count > LOOSE * median for count in late) / len(late),
        "worst": max(late) / median,
    }


def table(runs: list[dict[str, Any]]) -> str:
    rows = [HEADER]
    for name in dict.fromkeys(run["name"] for run in runs):
        its = [run for run in runs if run["name"] == name]
        ends = [float(run["nfe"]) for run in its]
        columns = (
            name,
            spread([run["accuracy"] for run in its]),
            spread(ends),
            str(sum(end > LOOSE * statistics.median(ends) for end in ends)),
            f"{100 * statistics.mean(run['loose_share'] for run in its):.2f}",
            f"{max(run['worst'] for run in its):.2f}",
            str(len(its)),
        )
        rows.append(f"| {' | '.join(columns)} |")
    return "\n".join(rows)


HEADER = (
    "| candidate | test accuracy, % | NFE | loose runs | loose steps, % | worst step, in medians | runs |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="long trainings, and which come loose")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--candidates", nargs="*", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--records", type=Path, default=Path("results/loose.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(options.records)
    for seed in range(options.seeds):
        for name in options.candidates:
            if records.has(name=name, seed=seed):
                continue
            run = train(name, seed, options.steps)
            records.add(run)
            print(f"{name}, seed {seed}: {run['accuracy']:.1f}%, NFE {run['nfe']}", flush=True)
    print(table(records.runs))


if __name__ == "__main__":
    main()
