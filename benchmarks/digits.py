"""Every regularizer on the digits classifier, over seeds: ``python -m benchmarks.digits --seeds 5``.

The demo's experiment (64-d neural ODE, Tsit5 at 1e-6, float64, 240 Adam steps). Each seed changes the split,
the weights, the batches and the sampled times; all methods of a seed share the first three.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import pylocalreg as plr
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
}


def spread(values: Sequence[float], digits: int = 1) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="every regularizer on the digits classifier, over seeds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps a run")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", type=Path, help="where to write the table too (markdown)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    runs: dict[str, list[digits.Run]] = {name: [] for name in options.methods}
    for seed in range(options.seeds):
        data = digits.load(seed)
        for name in options.methods:
            regularizer, coefficient = METHODS[name]()
            config = digits.Config(
                name, regularizer=regularizer, coefficient=coefficient, steps=options.steps, seed=seed
            )
            runs[name].append(digits.train(config, data, evaluate_every=options.steps))
            last = runs[name][-1].last
            print(f"seed {seed}, {name}: NFE {last.nfe}, {last.accuracy:.1f}%", flush=True)

    vanilla = runs[options.methods[0]]
    rows = [
        f"| method | test accuracy, % | NFE | ratio to {options.methods[0]} | training time, median ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, its in runs.items():
        nfe = [run.last.nfe / base.last.nfe for run, base in zip(its, vanilla, strict=True)]
        seconds = [run.seconds / base.seconds for run, base in zip(its, vanilla, strict=True)]
        accuracy, counts = [run.last.accuracy for run in its], [float(run.last.nfe) for run in its]
        time_ratio = f"{statistics.median(seconds):.2f}"
        columns = (name, spread(accuracy), spread(counts), spread(nfe, 2), time_ratio)
        rows.append(f"| {' | '.join(columns)} |")
    table = "\n".join(rows)
    print(table)
    if options.output:
        partial = options.output.with_suffix(".partial")
        partial.write_text(table + "\n")
        partial.replace(options.output)


if __name__ == "__main__":
    main()
