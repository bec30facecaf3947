"""Tables 2, 3 and 4 of the paper from the records of runs, beside the paper's numbers; Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pylocalreg.errors import CheckpointError, ConfigError
from pylocalreg.experiments import plain_yaml
from pylocalreg.experiments.comparison import EXPERIMENTS, Comparison, Method, Spread, compare
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.typed import problems

TABLES = {
    2: ("mnist_node", "mnist_nsde"),
    3: ("physionet",),
    4: ("cifar10_conv", "cifar10_multiscale"),
}
"""The experiments of each table."""


class Cells(BaseModel):
    """The paper's numbers of one method, in the units of `Record`; None where there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_score: float | None = None
    test_score: float | None = None
    train_seconds: float | None = None
    prediction_seconds: float | None = None
    test_nfe: float | None = None


class Abstract(BaseModel):
    """Ranges over the paper's experiments, of local regularization to vanilla."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nfe_ratio: tuple[float, float]
    prediction_speedup: tuple[float, float]


class Paper(BaseModel):
    """The paper's own numbers: of its abstract, and the cells of its tables by experiment and method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    abstract: Abstract
    cells: dict[str, dict[str, Cells]]


def load_paper(path: Path | None = None) -> Paper:
    """The packaged numbers, or a file of their form.

    Raises:
        ConfigError: the file can not be read, or has another form.
    """
    packaged = resources.files("pylocalreg.experiments") / "paper_numbers.yaml"
    try:
        return Paper.model_validate(
            plain_yaml.parse(packaged.read_text(encoding="utf-8"), packaged.name)
            if path is None
            else plain_yaml.read(path)
        )
    except ValidationError as error:
        raise ConfigError(f"{path} does not hold the paper's numbers: {problems(error)}") from error


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
    lines = [f"# Table {number}"]
    for section in sections:
        lines += ["", f"## {section.title}", "", f"{section.conditions}.", ""]
        lines += [
            "| " + " | ".join(section.header) + " |",
            "|---" + "|---:" * (len(section.header) - 1) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in section.rows]
    return "\n".join([*lines, "", NOTE, ""])


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
    "Mean ± standard deviation over the runs; ratios are those of the means to vanilla's. In brackets the "
    "paper's own numbers, where they are known; the last row is its abstract's, over all of its experiments."
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


def _section(comparison: Comparison, paper: Paper) -> Section:
    scores = ("train accuracy, %", "test accuracy, %")
    if comparison.any_run.metric == "mse":
        scores = ("train MSE", "test MSE")
    cells = paper.cells.get(comparison.experiment, {})
    rows = [_row(comparison, method, cells.get(method.name, Cells())) for method in comparison.methods]
    ranges = paper.abstract
    abstract = [
        "the paper's abstract",
        *[""] * 5,
        _range(ranges.nfe_ratio),
        "",
        _range(ranges.prediction_speedup),
        "",
    ]
    return Section(
        EXPERIMENTS[comparison.experiment],
        comparison.conditions,
        ("method", *scores, *HEADER),
        (*rows, tuple(abstract)),
    )


def _row(comparison: Comparison, method: Method, paper: Cells) -> tuple[str, ...]:
    score = _accuracy if comparison.any_run.metric == "accuracy" else _significant

    def cell(attribute: str, write: Callable[[float], str]) -> str:
        ours = _spread(method.spread(attribute), write)
        theirs = getattr(paper, attribute)
        return ours if theirs is None else f"{ours} [{write(theirs)}]"

    def ratio(attribute: str, *, inverse: bool = False) -> str:
        if comparison.vanilla is None:
            return ""
        value = method.ratio(comparison.vanilla, attribute)
        return f"{1 / value if inverse else value:.2f}"

    return (
        method.label,
        cell("train_score", score),
        cell("test_score", score),
        cell("train_seconds", _significant),
        cell("prediction_seconds", _significant),
        cell("test_nfe", _one_digit),
        ratio("test_nfe"),
        ratio("train_seconds"),
        ratio("prediction_seconds", inverse=True),
        str(len(method.runs)),
    )


def _spread(value: Spread, write: Callable[[float], str]) -> str:
    return write(value.mean) if value.deviation is None else f"{write(value.mean)} ± {write(value.deviation)}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"


def _accuracy(value: float) -> str:
    return f"{value:.2f}"


def _significant(value: float) -> str:
    return f"{value:.3g}"


def _one_digit(value: float) -> str:
    return f"{value:.1f}"


def _escape(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$")
