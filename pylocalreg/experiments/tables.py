"""Tables from the records of runs, 2 to 4 beside the paper's numbers; Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.comparison import (
    METHODS,
    OF_THE_PAPER,
    Comparison,
    Method,
    Spread,
    compare,
    paper_row,
)
from pylocalreg.experiments.metrics import METRICS
from pylocalreg.experiments.paper import Cells, Paper
from pylocalreg.experiments.records import Record

TABLES = {
    2: ("mnist_node", "mnist_nsde"),
    3: ("physionet",),
    4: ("cifar10_conv", "cifar10_multiscale"),
    5: ("ffjord", "ffjord_digits"),
    6: ("flow_matching",),
}
"""The experiments of each table: 2 to 4 are the paper's."""


@dataclass(frozen=True)
class Section:
    """A table's part: one experiment under one set of conditions."""

    title: str
    conditions: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def printable(records: Sequence[Record]) -> list[int]:
    """The tables of which there are records."""
    run = {record.experiment for record in records}
    return [number for number, experiments in TABLES.items() if run & set(experiments)]


def table(number: int, records: Sequence[Record], paper: Paper) -> list[Section]:
    """The sections of table ``number``, one for each group of runs that can be compared.

    Raises:
        CheckpointError: no record is of the table's experiments.
    """
    found = compare([record for record in records if record.experiment in TABLES[number]])
    if not found:
        raise CheckpointError(f"table {number} is of {TABLES[number]}: there is no record of these")
    return [_section(comparison, paper) for comparison in found]


def markdown(number: int, sections: Sequence[Section]) -> str:
    """A page of its own."""
    return "\n\n".join([f"# Table {number}", sections_markdown(sections), NOTE]) + "\n"


def sections_markdown(sections: Sequence[Section]) -> str:
    """For a page that has a title."""
    parts = []
    for section in sections:
        rows = ["| " + " | ".join(row) + " |" for row in (section.header, *section.rows)]
        rows.insert(1, "|---" + "|---:" * (len(section.header) - 1) + "|")
        parts += [f"## {section.title}", f"{section.conditions}.", "\n".join(rows)]
    return "\n\n".join(parts)


def latex(number: int, sections: Sequence[Section]) -> str:
    """Tables for booktabs."""
    lines = [f"% Table {number}. {NOTE}"]
    for section in sections:
        columns = "l" + "r" * (len(section.header) - 1)
        lines += [
            r"\begin{table}",
            rf"\caption{{{_escape(section.title)}. {_escape(section.conditions)}.}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_escape(cell) for cell in section.header) + r" \\",
            r"\midrule",
            *(" & ".join(_escape(cell) for cell in row) + r" \\" for row in section.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join([*lines, ""])


NOTE = (
    "Mean ± standard deviation over the runs; ratios are those of the means to vanilla's. Times are CPU time "
    "where one thread trained. In brackets the paper's own numbers, and their ratios; a row of these "
    "alone was not run here. Rows with † the paper took from Pal et al. (2021), with the clock of another "
    "machine. The last row is its abstract's, over all of its experiments."
)

HEADER = (
    "training time, s",
    "prediction, s/batch",
    "test NFE",
    "NFE ratio",
    "training time ratio",
    "prediction speedup",
    "runs",
)

Write = Callable[[float], str]


def _section(comparison: Comparison, paper: Paper) -> Section:
    label = METRICS[comparison.any_run.metric].label
    theirs = paper.cells.get(comparison.experiment, {})
    rows = [_row(comparison, method, theirs) for method in comparison.methods]
    run = {paper_row(method.any_run) for method in comparison.methods}
    rows += [_papers(comparison, name, theirs) for name in theirs if name not in run]
    if comparison.experiment in OF_THE_PAPER:
        rows.append(_abstract(paper))
    return Section(
        comparison.title,
        comparison.conditions,
        ("method", f"train {label}", f"test {label}", *HEADER),
        tuple(rows),
    )


def _abstract(paper: Paper) -> tuple[str, ...]:
    ratio, speedup = _range(paper.abstract.nfe_ratio), _range(paper.abstract.prediction_speedup)
    return ("the paper's abstract", *[""] * 5, f"[{ratio}]", "", f"[{speedup}]", "")


def _columns(comparison: Comparison) -> tuple[tuple[str, Write], ...]:
    """The attributes of a record with a column, and how their numbers are written."""
    form = METRICS[comparison.any_run.metric].form

    def score(value: float) -> str:
        return f"{value:{form}}"

    return (
        ("train_score", score),
        ("test_score", score),
        ("train_seconds", _significant),
        ("prediction_seconds", _significant),
        ("test_nfe", _one_digit),
    )


RATIOS = (("test_nfe", False), ("train_seconds", False), ("prediction_seconds", True))
"""The attributes with a column of ratios to vanilla's; the last one's is the inverse."""


def _row(comparison: Comparison, method: Method, theirs: dict[str, Cells]) -> tuple[str, ...]:
    beside = _papers(comparison, paper_row(method.any_run), theirs)
    ours = [_spread(method.spread(attribute), write) for attribute, write in _columns(comparison)]
    for attribute, inverse in RATIOS:
        vanilla = comparison.vanilla
        ours.append("" if vanilla is None else _ratio(method.ratio(vanilla, attribute), inverse))
    cells = [f"{one} {other}".strip() for one, other in zip(ours, beside[1:-1], strict=True)]
    return (method.label + _dagger(theirs, paper_row(method.any_run)), *cells, str(len(method.runs)))


def _papers(comparison: Comparison, name: str, theirs: dict[str, Cells]) -> tuple[str, ...]:
    """The paper's row of a method, in brackets; empty cells where it has none."""
    steps = comparison.any_run.settings["train"]["steps"]
    row = theirs.get(name, Cells())
    cells = []
    for attribute, write in _columns(comparison):
        printed = row.of(attribute, steps)
        cells.append("" if printed is None else f"[{_spread(Spread(*printed), write)}]")
    for attribute, inverse in RATIOS:
        ratio = row.ratio(theirs.get("vanilla"), attribute)
        cells.append("" if ratio is None else f"[{_ratio(ratio, inverse)}]")
    return (METHODS[name] + _dagger(theirs, name), *cells, "")


def _dagger(theirs: dict[str, Cells], name: str) -> str:
    return " †" if theirs.get(name, Cells()).from_2021 else ""


def _ratio(value: float, inverse: bool) -> str:
    return f"{1 / value if inverse else value:.2f}"


def _spread(value: Spread, write: Write) -> str:
    return write(value.mean) if value.deviation is None else f"{write(value.mean)} ± {write(value.deviation)}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"


def _significant(value: float) -> str:
    return f"{value:.3g}"


def _one_digit(value: float) -> str:
    return f"{value:.1f}"


def _escape(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$").replace("†", r"$\dagger$")
