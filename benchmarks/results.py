"""Every table and picture of README and docs from the runs' records: ``make results``.

``docs/records`` holds the records: ``record.json`` of training runs (``pylocalreg train``), what
``pylocalreg demo`` and ``digits-sde`` wrote, ``digits.jsonl``, ``loose.jsonl``, ``choices.jsonl``,
``floor.jsonl`` and ``reproduction.jsonl`` of five benchmarks, ``paper_float32.jsonl`` the evaluations of two
runs that were not trained to their end, and in ``bench`` what ``make bench`` measured.
What stands between ``<!-- results: NAME -->`` and ``<!-- end -->`` in a page is written here, by name.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import choices, digits, floor, loose, memory, page, reproduction, work_precision
from benchmarks.records import read
from pylocalreg.experiments import figures, paper, records, tables
from pylocalreg.experiments.comparison import compare
from pylocalreg.experiments.files import write_text
from pylocalreg.experiments.metrics import METRICS
from pylocalreg.experiments.records import Record

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs/records"
BENCH = RECORDS / "bench"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/digits.md",
    "docs/reproduction.md",
    "docs/experiments.md",
    "docs/benchmarks.md",
    "docs/memory.md",
)
PICTURES = "docs/pictures"
LOCAL = ("local, unbiased", "local, biased")

PLACE = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def runs() -> list[Record]:
    return records.load_all([RECORDS])


def lines(name: str) -> list[dict[str, Any]]:
    return list(read(RECORDS / name))


def figures_of(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((BENCH / name).read_text())
    return figures


def table(number: int) -> str:
    """A section for each group of runs, without the page's own title."""
    return tables.sections_markdown(tables.table(number, runs(), paper.load()))


def summary() -> str:
    """Both samplings against vanilla, an experiment each: the README's."""
    rows = [
        "| against vanilla | training steps | NFE | score | training time | prediction speedup |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for comparison in compare(runs()):
        vanilla, train = comparison.vanilla, comparison.any_run.settings["train"]
        for method in comparison.methods:
            if vanilla is None or method.name not in ("local_unbiased", "local_biased"):
                continue
            kind = METRICS[comparison.any_run.metric]
            ours, theirs = (kind.written(one.spread("test_score").mean) for one in (method, vanilla))
            rows.append(
                f"| {comparison.title}, {method.label} {_runs(len(method.runs))} "
                f"| {train['steps']:,} of {train['batch']} "
                f"| {method.ratio(vanilla, 'test_nfe'):.2f} | {ours}, vanilla's {theirs} "
                f"| {method.ratio(vanilla, 'train_seconds'):.2f} "
                f"| {1 / method.ratio(vanilla, 'prediction_seconds'):.1f} |"
            )
    return "\n".join(rows)


def demo(found: Sequence[dict[str, Any]]) -> str:
    """What README says of `pylocalreg demo`, by its records."""
    by = {name: [run for run in found if run["method"] == name] for name in ("vanilla", *LOCAL)}

    def mean(name: str, key: str) -> float:
        return statistics.mean(float(run[key]) for run in by[name])

    def together(numbers: Sequence[str]) -> str:
        return " and ".join(dict.fromkeys(numbers))

    nfe = together([f"{mean(name, 'nfe'):.0f}" for name in LOCAL])
    time = together([f"{mean(name, 'seconds') / mean('vanilla', 'seconds'):.2f}" for name in LOCAL])
    score = {name: f"{mean(name, 'accuracy'):.1f} %" for name in by}
    apart = [statistics.stdev(run["accuracy"] for run in runs) for runs in by.values()]
    return (
        f"The same classifier on the same digits, {len(by['vanilla'])} seeds (the band is their range): "
        f"**{mean('vanilla', 'nfe'):.0f} evaluations of the dynamics a\nsolve without regularization, {nfe} "
        f"with it**, in {time} of the training time, at a test accuracy of {score['vanilla']}, and\n"
        f"{score[LOCAL[0]]} (unbiased) and {score[LOCAL[1]]} (biased); seeds differ by {min(apart):.1f} to "
        f"{max(apart):.1f} points."
    )


def _runs(count: int) -> str:
    return "(one run)" if count == 1 else f"({count} runs)"


PARTS: dict[str, Callable[[], str]] = {
    "summary": summary,
    "table-2": lambda: table(2),
    "table-3": lambda: table(3),
    "table-4": lambda: table(4),
    "table-5": lambda: table(5),
    "demo": lambda: demo(lines("demo.jsonl")),
    "digits": lambda: digits.table(lines("digits.jsonl")),
    "digits-sde": lambda: digits.table(lines("digits-sde.jsonl")),
    "loose": lambda: loose.table(lines("loose.jsonl")),
    "choices": lambda: choices.table(lines("choices.jsonl")),
    "floor": lambda: floor.table(lines("floor.jsonl")),
    "gradients": lambda: reproduction.gradient_table(lines("reproduction.jsonl")),
    "precisions": lambda: reproduction.training_table(lines("reproduction.jsonl")),
    "paper-float32": lambda: reproduction.whole_table(lines("paper_float32.jsonl")),
    "mnist-1": lambda: page.shape(figures_of("mnist-1.json")),
    "mnist-2": lambda: page.shape(figures_of("mnist-2.json")),
    "small-1": lambda: page.shape(figures_of("small-1.json")),
    "mnist-h100": lambda: page.shape(figures_of("mnist-h100.json")),
    "mnist-h100-trained": lambda: page.shape(figures_of("mnist-h100-trained.json")),
    "sde": lambda: page.sde(figures_of("sde.json")),
    "memory": lambda: memory.table(figures_of("memory.json")),
    "peers": lambda: page.against_peers([figures_of("mnist-1.json"), figures_of("small-1.json")]),
    "work-precision": lambda: work_precision.table(lines("bench/work_precision.jsonl")),
}


def filled(page: str) -> str:
    """The page with its tables as the records have them."""
    return PLACE.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}", page)


def main() -> None:
    """With ``--check`` nothing is written: the exit status tells whether a page is behind the records."""
    behind = []
    for name in PAGES:
        before = (ROOT / name).read_text()
        now = filled(before)
        if now != before:
            behind.append(name)
        if "--check" not in sys.argv:
            write_text(ROOT / name, now)
    if "--check" in sys.argv:
        sys.exit(f"behind the records: {', '.join(behind)}: make results" if behind else 0)
    found = runs()
    for number in figures.drawable(found):
        figures.draw(number, found, ROOT / PICTURES, paper.load())
    experiments, whole = lines("reproduction.jsonl"), lines("paper_float32.jsonl")
    reproduction.draw(experiments, whole, ROOT / PICTURES / "reproduction.png")
    work_precision.draw(lines("bench/work_precision.jsonl"), ROOT / PICTURES / "work-precision.png")
    choices.draw(lines("choices.jsonl"), ROOT / PICTURES / "choices.png")
    memory.draw(figures_of("memory.json"), ROOT / PICTURES / "memory.png")


if __name__ == "__main__":
    main()
