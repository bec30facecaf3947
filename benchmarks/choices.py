"""Evaluations against score, by coefficient: ``python -m benchmarks.choices RUNS...``.

``pylocalreg train`` keeps a run's settings and what it scored on the validation part. Each run in the folders
given becomes a line of ``--records FILE``: its coefficient, and the last validation. The test images have no
part in it.
"""

import argparse
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import Records
from pylocalreg.experiments import log
from pylocalreg.experiments.comparison import EXPERIMENTS, METHODS
from pylocalreg.experiments.files import replacing
from pylocalreg.experiments.metrics import METRICS, Kind
from pylocalreg.experiments.tasks import TASKS


def run_of(folder: Path) -> dict[str, Any] | None:
    """What the run in ``folder`` chose and came to; None before its first validation."""
    settings = json.loads((folder / "settings.json").read_text())
    rows = log.read(folder / "log.jsonl")
    validations = [row for row in rows if row["kind"] == "validation" and row["step"]]
    if not validations:
        return None
    last, method = validations[-1], settings["method"]
    coefficient = settings["methods"].get(method, {}).get("coefficient")
    return {
        "experiment": settings["task"]["name"],
        "method": method,
        "coefficient": coefficient and [coefficient["start"], coefficient["end"]],
        "seed": settings["train"]["seed"],
        "step": last["step"],
        "score": last["score"],
        "nfe": last["nfe"],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    lines = ["| | coefficient | steps | seed | NFE | validation |", "|---|---:|---:|---:|---:|---:|"]
    for run in _in_order(runs):
        cells = [EXPERIMENTS[run["experiment"]] + ", " + METHODS[run["method"]], _written(run["coefficient"])]
        score = _kind(run["experiment"]).written(run["score"])
        cells += [f"{run['step']:,}", str(run["seed"]), f"{run['nfe']:.0f}", score]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_order(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(runs, key=lambda run: (run["step"], run["nfe"]))


def _kind(experiment: str) -> Kind:
    return METRICS[TASKS[experiment].metric]


def _written(coefficient: Sequence[float] | None) -> str:
    if coefficient is None:
        return ""
    start, end = coefficient
    return f"{start:g}" if start == end else f"{start:g} to {end:g}"


def draw(runs: Sequence[dict[str, Any]], output: Path) -> None:
    """The trade-off of each experiment: a line a length of training, a point a coefficient."""
    plt: Any = importlib.import_module("matplotlib.pyplot")
    experiments = list(dict.fromkeys(run["experiment"] for run in runs))
    figure, every = plt.subplots(
        1, len(experiments), figsize=(7 * len(experiments), 4.2), layout="constrained", squeeze=False
    )
    for experiment, axes in zip(experiments, every[0], strict=True):
        its = [run for run in _in_order(runs) if run["experiment"] == experiment]
        for steps in sorted({run["step"] for run in its}):
            of = [run for run in its if run["step"] == steps]
            axes.plot(
                [run["nfe"] for run in of], [run["score"] for run in of], "o-", label=f"{steps:,} steps"
            )
            for run in of:
                name = _written(run["coefficient"]) or METHODS[run["method"]]
                axes.annotate(
                    name, (run["nfe"], run["score"]), xytext=(4, -11), textcoords="offset points", fontsize=8
                )
        axes.set(xlabel="NFE of a solve", ylabel=f"validation {_kind(experiment).label}")
        axes.set_title(f"The coefficient's trade-off: {EXPERIMENTS[experiment]}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with replacing(output) as partial:
        figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)


def runs_in(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for settings in sorted(path for folder in folders for path in folder.rglob("settings.json")):
        run = run_of(settings.parent)
        if run is not None:
            yield run


def main() -> None:
    parser = argparse.ArgumentParser(description="evaluations against score, by coefficient")
    parser.add_argument("folders", type=Path, nargs="+", help="where runs of pylocalreg train are")
    parser.add_argument("--records", type=Path, default=Path("results/choices.jsonl"))
    options = parser.parse_args()
    records = Records(options.records)
    for run in runs_in(options.folders):
        if not records.has(**run):
            records.add(run)
    print(table(records.runs))


if __name__ == "__main__":
    main()
