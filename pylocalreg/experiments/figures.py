"""Figures from the records of runs: the costs, the two samplings, and each experiment's training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch

import pylocalreg as plr
from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.comparison import EXPERIMENTS, Comparison, Method, compare, paper_row
from pylocalreg.experiments.files import replacing
from pylocalreg.experiments.generators import seeded
from pylocalreg.experiments.metrics import METRICS
from pylocalreg.experiments.paper import Cells, Paper
from pylocalreg.experiments.records import Record
from pylocalreg.regularizers.sampling import Reservoirs

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

TRAINING = dict(enumerate(EXPERIMENTS, start=3))
"""The experiment of each figure beyond the first two: those of 3 to 7 are the paper's."""

FIGURES = (1, 2, *TRAINING)

TICKS = [0.125, 0.25, 0.5, 1, 2, 4]
"""Of ratios."""


def drawable(records: Sequence[Record]) -> list[int]:
    """The figures of which there are records."""
    run = {record.experiment for record in records}
    costs = [1] if _against_vanilla(compare(records)) else []
    return [*costs, 2, *(number for number, experiment in TRAINING.items() if experiment in run)]


def draw(number: int, records: Sequence[Record], output: Path, paper: Paper) -> list[Path]:
    """Figure ``number`` as ``figure-<number>.png`` and ``.pdf`` in the folder ``output``.

    Figure 1: NFE, training time and prediction time of every experiment and method, as ratios to vanilla's,
    with the paper's own ratios as marks.
    Figure 2: where the unbiased and the biased regularizer take their steps in one solve; it needs no record.
    The others: validation score and NFE over training, and those of the test, one against the other, an
    experiment each.

    Raises:
        CheckpointError: there is no record of the figure's experiment.
    """
    if number == 1:
        figure = _costs(compare(records), paper)
    elif number == 2:
        figure = _samplings()
    else:
        figure = _training(compare([run for run in records if run.experiment == TRAINING[number]]), number)
    paths = [output / f"figure-{number}.{suffix}" for suffix in ("png", "pdf")]
    for path in paths:
        with replacing(path) as partial:
            suffix = path.suffix.lstrip(".")
            # the same picture is the same file: no date in it
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(partial, dpi=150, format=suffix, metadata=metadata)
    plt.close(figure)
    return paths


def _against_vanilla(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Method]]:
    """Those that have another method beside vanilla, with vanilla's."""
    return [(c, c.vanilla) for c in comparisons if c.vanilla is not None and len(c.methods) > 1]


def _costs(comparisons: Sequence[Comparison], paper: Paper) -> Any:
    """Bars from 1 to the ratio, a group a comparison: those to the left save. Marks are the paper's."""
    shown = _against_vanilla(comparisons)
    if not shown:
        raise CheckpointError(
            "figure 1 shows ratios to vanilla: there are no records of a vanilla run with another method's "
            "beside it"
        )
    methods = [[method for method in c.methods if method is not vanilla] for c, vanilla in shown]
    labels = list(dict.fromkeys(method.label for beside in methods for method in beside))
    colours = _colours([*(vanilla.label for _, vanilla in shown), *labels])
    panels = {
        "test_nfe": "test NFE",
        "train_seconds": "training time",
        "prediction_seconds": "prediction time",
    }
    rows = len(shown)
    figure, axes = plt.subplots(1, 3, figsize=(15, 1.5 + 0.7 * rows), layout="constrained", sharey=True)
    for axis, (attribute, title) in zip(axes, panels.items(), strict=True):
        for place, ((comparison, vanilla), beside) in enumerate(zip(shown, methods, strict=True)):
            theirs = paper.cells.get(comparison.experiment, {})
            width = 0.8 / max(len(beside), 1)
            for i, method in enumerate(beside):
                at = place - 0.4 + (i + 0.5) * width
                saved = method.ratio(vanilla, attribute) - 1
                axis.barh(at, saved, width, left=1, color=colours[method.label])
                printed = theirs.get(paper_row(method.any_run), Cells()).ratio(
                    theirs.get("vanilla"), attribute
                )
                if printed is not None:
                    axis.plot(printed, at, "kD", markersize=4)
        axis.axvline(1, color="0.3", linewidth=1)
        axis.set(title=f"{title}, ratio to vanilla's", xscale="log", ylim=(rows - 0.5, -0.5))
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.minorticks_off()
    names = [f"{c.title}\n{c.any_run.data}, {c.any_run.settings['train']['steps']:,} steps" for c, _ in shown]
    axes[0].set_yticks(range(rows), names, fontsize=7)
    handles: list[Any] = [Patch(color=colours[label]) for label in labels]
    handles.append(Line2D([], [], color="k", marker="D", markersize=4, linestyle=""))
    labels.append("the paper's")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure


def _samplings(draws: int = 2000) -> Any:
    """The sampled times of two regularizers in a solve whose steps gather where the solution bends."""

    def bend(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 10 / torch.cosh(20 * (t - 0.5)).square() - u

    solution = plr.NeuralODE(bend, engine="torch")(torch.zeros(1, dtype=torch.float64), dense=True)
    starts, generator = solution.steps.t, seeded(0)
    unbiased = torch.rand(draws, generator=generator, dtype=torch.float64).numpy()
    biased = starts[[_drawn_step(len(starts), generator) for _ in range(draws)]]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), layout="constrained", sharex=True)
    times = np.linspace(0, 1, 300)
    above.plot(times, [float(solution(float(t))[0]) for t in times], "0.3")
    above.plot(starts, [float(solution(float(t))[0]) for t in starts], "k|", markersize=12)
    above.set(title=f"a solution and the starts of its {len(starts)} steps", ylabel="u")
    bins = np.linspace(0, 1, 26)
    below.hist([unbiased, biased], bins=list(bins), density=True, label=["unbiased", "biased"])
    below.set(title=f"{draws} sampled times", xlabel="t", ylabel="density")
    below.legend()
    return figure


def _drawn_step(count: int, generator: torch.Generator) -> int:
    draw = Reservoirs(1, "none", generator)
    for i in range(count):
        draw.offer(i, 0.0)
    (index,) = draw.weights
    return index


def _training(comparisons: Sequence[Comparison], number: int) -> Any:
    """A row of panels for each comparison; bands are a standard deviation over the seeds wide."""
    if not comparisons:
        raise CheckpointError(f"figure {number} is of {TRAINING[number]}: there is no record of it")
    rows = len(comparisons)
    colours = _colours([method.label for c in comparisons for method in c.methods])
    figure, grid = plt.subplots(rows, 3, figsize=(15, 4.2 * rows), layout="constrained", squeeze=False)
    for comparison, (left, middle, right) in zip(comparisons, grid, strict=True):
        metric = METRICS[comparison.any_run.metric]
        for method in comparison.methods:
            colour = colours[method.label]
            _band(left, method, "score", colour)
            _band(middle, method, "nfe", colour)
            right.plot(
                [run.test_nfe for run in method.runs],
                [run.test_score for run in method.runs],
                "o",
                color=colour,
                label=method.label,
            )
        left.set(
            title=comparison.title,
            xlabel="training step",
            ylabel=f"validation {metric.label}",
        )
        left.set_yscale("log" if metric.logarithmic else "linear")
        middle.set(
            title=comparison.any_run.data, xlabel="training step", ylabel="validation NFE", ylim=(0, None)
        )
        right.set(
            title="at the end, a point a run",
            xlabel="test NFE",
            ylabel=f"test {metric.label}",
            xlim=(0, None),
        )
        left.legend(fontsize=8)
    return figure


def _band(axis: Any, method: Method, name: str, colour: str) -> None:
    """Runs may be evaluated at other steps (``evaluate_every``): those they share are drawn."""
    curves = [{row["step"]: row[name] for row in run.history} for run in method.runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values: npt.NDArray[np.float64] = np.array([[curve[step] for step in steps] for curve in curves])
    mean, deviation = values.mean(0), values.std(0)
    axis.plot(steps, mean, color=colour, label=method.label)
    axis.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    return {label: f"C{i % 10}" for i, label in enumerate(dict.fromkeys(labels))}
