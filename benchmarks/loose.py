"""Does a regularizer come loose? Long trainings of the digits classifier: ``python -m benchmarks.loose``.

Six times the demo's training steps, Tsit5 at 1e-6 in float64. A training step is loose that takes more than
1.5 times the median NFE of its run, a run that ends above 1.5 times the median of its candidate. Each has one
coefficient, chosen on seed 0 so that NFE is alike. ``--records FILE`` keeps a line a run: a call goes on
where an earlier one was stopped.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.digits import spread
from pylocalreg.experiments import digits

STEPS = 1440
LOOSE = 1.5
Weight = Callable[[int], float]


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


CANDIDATES: dict[str, Callable[[], tuple[plr.Regularizer | None, Any]]] = {
    "vanilla": lambda: (None, plr.schedules.Constant(0.0)),
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
    data = digits.load(seed)
    torch.manual_seed(seed)
    model = digits.Classifier(digits.Config(name, regularizer=regularizer, seed=seed)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = digits.batches(len(data.train_y), 128, torch.Generator().manual_seed(seed))
    counts = []
    for step in range(steps):
        chosen = next(batches)
        logits, solution = model(data.train_x[chosen])
        counts.append(solution.stats.nfe - solution.stats.nfe_regularizer)
        loss = torch.nn.functional.cross_entropy(logits, data.train_y[chosen])
        if solution.regularization is not None:
            loss = loss + coefficient(step) * solution.regularization
            if isinstance(coefficient, plr.schedules.NFEBudget):
                coefficient.observe(solution.stats)
            elif isinstance(coefficient, RunningScale):
                coefficient.observe(float(solution.regularization.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    last, _ = digits.evaluate(model, data, steps, float("nan"))
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
    options.records.parent.mkdir(parents=True, exist_ok=True)
    runs = []
    if options.records.exists():
        runs = [json.loads(line) for line in options.records.read_text().splitlines()]
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(options.seeds):
        for name in options.candidates:
            if (name, seed) in done:
                continue
            runs.append(train(name, seed, options.steps))
            with options.records.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
            print(f"{name}, seed {seed}: {runs[-1]['accuracy']:.1f}%, NFE {runs[-1]['nfe']}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
