"""`pylocalreg demo`: the same classifier trained without and with local regularization, side by side."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from rich.console import Console
from rich.table import Table

import pylocalreg as plr
from pylocalreg.experiments import digits
from pylocalreg.experiments.files import replacing
from pylocalreg.regularizers import Sampling

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SAMPLINGS: tuple[Sampling, ...] = ("unbiased", "biased")


def configs(steps: int, seed: int, engine: str) -> list[digits.Config]:
    """Vanilla, local unbiased, local biased; the coefficient is 1."""
    coefficient = plr.schedules.Constant(1.0)
    vanilla = digits.Config(steps=steps, seed=seed, engine=engine)
    return [vanilla] + [
        digits.Config(
            name=f"local, {sampling}",
            regularizer=plr.LocalRegularizer(sampling),
            coefficient=coefficient,
            steps=steps,
            seed=seed,
            engine=engine,
        )
        for sampling in SAMPLINGS
    ]


def run(
    output: Path, records: Path, steps: int, seeds: Sequence[int], engine: str, console: Console
) -> dict[str, list[digits.Run]]:
    """Train all three from each seed, a line for each; print the table, write ``output`` (a picture) and
    ``records`` (see `digits.save`).
    """
    planned = [config for seed in seeds for config in configs(steps, seed, engine)]
    processes = min(cpu_count(), len(planned))
    console.print(
        f"{len(planned)} models of {steps} steps, in {processes} processes of one thread each: models of "
        "this size gain nothing by more threads, and lose where another program is busy"
    )
    runs: dict[str, list[digits.Run]] = {config.name: [] for config in planned}
    for number, done in enumerate(_trained(planned, processes), 1):
        runs[done.config.name].append(done)
        console.print(
            f"{number} of {len(planned)}  {done.config.name:16}  seed {done.config.seed}  test "
            f"{done.last.accuracy:.1f}%  NFE {done.last.nfe}  {done.seconds:.1f} s"
        )
    for found in runs.values():
        found.sort(key=lambda item: item.config.seed)
    console.print(table(runs))
    digits.save(records, runs)
    draw(runs, output)
    console.print(f"picture: {output}, records: {records}")
    return runs


def _trained(planned: Sequence[digits.Config], processes: int) -> Iterator[digits.Run]:
    """Each as it is ready."""
    in_turn = Parallel(n_jobs=processes, return_as="generator_unordered")
    trained: Iterator[digits.Run] = in_turn(delayed(_train)(config) for config in planned)
    return trained


def _train(config: digits.Config) -> digits.Run:
    torch.set_num_threads(1)
    return digits.train(config, digits.load(config.seed))


def table(runs: dict[str, list[digits.Run]]) -> Table:
    """Means over the seeds, and of accuracy and NFE the deviations."""
    seeds = len(runs["vanilla"])
    out = Table(title=f"digits, test set, {seeds} seeds: 64-d neural ODE, Tsit5 at 1e-6, float64")
    for name in ("", "accuracy", "NFE", "ratio", "training", "ratio"):
        out.add_column(name, justify="left" if not name else "right", no_wrap=True)
    nfe = {name: statistics.mean(item.last.nfe for item in found) for name, found in runs.items()}
    seconds = {name: statistics.mean(item.seconds for item in found) for name, found in runs.items()}
    for name, found in runs.items():
        out.add_row(
            name,
            digits.spread([item.last.accuracy for item in found]) + "%",
            digits.spread([float(item.last.nfe) for item in found]),
            f"{nfe[name] / nfe['vanilla']:.2f}",
            f"{seconds[name]:.1f} s",
            f"{seconds[name] / seconds['vanilla']:.2f}",
        )
    return out


def draw(runs: dict[str, list[digits.Run]], output: Path) -> None:
    """Accuracy and NFE over training, the mean and the range over the seeds; and the steps the solver takes
    along t, before and after it, of the first seed.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    colours = [f"C{i}" for i in range(len(runs))]
    for (name, found), colour in zip(runs.items(), colours, strict=True):
        steps = [row.step for row in found[0].history]
        accuracy = np.array([[row.accuracy for row in item.history] for item in found])
        nfe = np.array([[row.nfe for row in item.history] for item in found])
        for axes, values in ((left, accuracy), (middle, nfe)):
            axes.plot(steps, values.mean(0), colour, label=name)
            axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    left.set(title="test accuracy", xlabel="training step", ylabel="%")
    middle.set(
        title="evaluations of the dynamics a solve", xlabel="training step", ylabel="NFE", ylim=(0, None)
    )
    left.legend()
    middle.legend()

    rows = [("before training", runs["vanilla"][0].steps_before, "0.4")]
    rows += [(name, found[0].steps_after, c) for (name, found), c in zip(runs.items(), colours, strict=True)]
    for place, (_, taken, colour) in enumerate(reversed(rows)):
        ends = np.append(taken.t, taken.t[-1] + taken.dt[-1])
        right.hlines(place, ends[0], ends[-1], color=colour, linewidth=1)
        right.plot(ends, np.full_like(ends, place), "|", color=colour, markersize=16, markeredgewidth=1.5)
    names = [f"{name}\n{len(taken.t)} steps" for name, taken, _ in reversed(rows)]
    right.set(title="where the solver steps", xlabel="t", yticks=range(len(rows)), yticklabels=names)
    right.set_ylim(-0.6, len(rows) - 0.4)

    with replacing(output) as partial:
        figure.savefig(partial, dpi=120, format=output.suffix.lstrip(".") or "png")
    plt.close(figure)
