"""`pylocalreg demo`: the same classifier trained without and with local regularization, side by side."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
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


def run(output: Path, steps: int, seed: int, engine: str, console: Console) -> list[digits.Run]:
    """Train all three with a progress bar; print the table and write ``output`` (a PNG)."""
    data = digits.load(seed)
    columns = (
        TextColumn("{task.description:16}"),
        BarColumn(bar_width=12),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("loss {task.fields[loss]:.3f}  test {task.fields[accuracy]:.1f}%  NFE {task.fields[nfe]}"),
        TimeElapsedColumn(),
    )
    runs = []
    with Progress(*columns, console=console) as progress:
        for config in configs(steps, seed, engine):
            task = progress.add_task(
                config.name, total=steps, loss=float("nan"), accuracy=float("nan"), nfe="-"
            )

            def report(step: int, loss: float, row: digits.Row, task: TaskID = task) -> None:
                progress.update(task, completed=step + 1, loss=loss, accuracy=row.accuracy, nfe=row.nfe)

            runs.append(digits.train(config, data, report))
    console.print(table(runs))
    draw(runs, output)
    console.print(f"picture: {output}")
    return runs


def table(runs: Sequence[digits.Run]) -> Table:
    vanilla = runs[0]
    out = Table(title="digits, test set: 64-d neural ODE, Tsit5 at 1e-6, float64")
    for name in ("", "accuracy", "NFE", "before", "ratio", "training", "ratio"):
        out.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for item in runs:
        out.add_row(
            item.config.name,
            f"{item.last.accuracy:.1f}%",
            str(item.last.nfe),
            str(item.history[0].nfe),
            f"{item.last.nfe / vanilla.last.nfe:.2f}",
            f"{item.seconds:.1f} s",
            f"{item.seconds / vanilla.seconds:.2f}",
        )
    return out


def draw(runs: Sequence[digits.Run], output: Path) -> None:
    """Accuracy and NFE over training; and the steps the solver takes along t, before and after it."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    colours = [f"C{i}" for i in range(len(runs))]
    for item, colour in zip(runs, colours, strict=True):
        steps = [row.step for row in item.history]
        left.plot(steps, [row.accuracy for row in item.history], colour, label=item.config.name)
        middle.plot(steps, [row.nfe for row in item.history], colour, label=item.config.name)
    left.set(title="test accuracy", xlabel="training step", ylabel="%")
    middle.set(
        title="evaluations of the dynamics a solve", xlabel="training step", ylabel="NFE", ylim=(0, None)
    )
    left.legend()
    middle.legend()

    rows = [("before training", runs[0].steps_before, "0.4")]
    rows += [(item.config.name, item.steps_after, c) for item, c in zip(runs, colours, strict=True)]
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
