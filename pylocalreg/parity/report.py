"""The comparisons as a table, as JSON, and as a page with pictures."""

import base64
import html
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pylocalreg.experiments.files import write_json, write_text
from pylocalreg.parity.compare import FIELDS, JUDGED, Comparison
from pylocalreg.parity.paper import PaperComparison

COLUMNS = ("case", "engine", "against", "steps", "nf", *FIELDS, "verdict")


def table(comparisons: Sequence[Comparison]) -> str:
    """A row a comparison."""
    return _aligned([COLUMNS, *(_cells(c) for c in comparisons)])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(c: Comparison) -> list[str]:
    one, other = c.reference, c.measured
    steps = f"{other.naccept}+{other.nreject}"
    if not c.same_steps:
        steps += f" (not {one.naccept}+{one.nreject})"
    nf = str(other.nf) if one.nf == other.nf else f"{other.nf} (not {one.nf})"
    return [c.case.name, other.who, one.who, steps, nf, *(_cell(c, f) for f in FIELDS), verdict(c)]


def verdict(c: Comparison) -> str:
    """In words: the steps, and each field that a verdict is given on."""
    apart = [] if c.same_steps else ["steps"]
    return "the same" if c.same else f"apart: {', '.join([*apart, *c.apart])}"


def _cell(c: Comparison, field: str) -> str:
    """A difference; in brackets where rounding alone decides it."""
    number = _number(c.differences[field])
    unjudged = field in JUDGED and c.agrees(field) is None and c.differences[field] is not None
    return f"({number})" if unjudged else number


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.1e}"


def summary(comparisons: Sequence[Comparison]) -> list[str]:
    """How many are the same, in their steps and in each field."""
    count = len(comparisons)
    lines = [f"{sum(c.same_steps for c in comparisons)} of {count} comparisons take the same steps and calls"]
    for field in JUDGED:
        verdicts = [c.agrees(field) for c in comparisons if c.differences[field] is not None]
        if verdicts:
            judged = [v for v in verdicts if v is not None]
            rounding = f", {len(verdicts) - len(judged)} more are rounding" if None in verdicts else ""
            lines.append(f"{field}: {sum(judged)} of {len(judged)} agree{rounding}")
    return lines


PAPER_COLUMNS = (
    "case",
    "engine",
    "R by the paper's code",
    "dt",
    "R",
    "gradient",
    "stiffness",
    "its gradient",
)

PAPER_NOTE = (
    "Of the paper's code: the step from (tau, u(tau)), its two estimates, and Zygote's gradient through "
    "them. Of today's stack: u(tau), the first stage, the automatic first step and the tableau. Not run: its "
    "SDE steps, which name caches of the stack of 2023. float32 is left out: there the estimate of so short "
    "a step is rounding."
)


def paper_table(comparisons: Sequence[PaperComparison]) -> str:
    """A row a comparison with the paper's code."""
    return _aligned([PAPER_COLUMNS, *(_paper_cells(c) for c in comparisons)])


def _paper_cells(c: PaperComparison) -> list[str]:
    return [
        c.case.name,
        c.engine,
        f"{c.R:.4e}",
        *(_number(x) for x in (c.dt, c.value, c.gradient, c.stiffness, c.stiffness_gradient)),
    ]


def save_json(comparisons: Sequence[Comparison], paper: Sequence[PaperComparison], path: Path) -> None:
    rows = [
        {
            "case": c.case.name,
            "engine": c.engine,
            "R": c.R,
            "dt": c.dt,
            "value": c.value,
            "gradient": c.gradient,
            "stiffness": c.stiffness,
            "stiffness_gradient": c.stiffness_gradient,
        }
        for c in paper
    ]
    write_json(path, {"engines": [_as_json(c) for c in comparisons], "paper": rows})


def _as_json(c: Comparison) -> dict[str, Any]:
    sides = {
        side.who: {
            "naccept": side.naccept,
            "nreject": side.nreject,
            "nf": side.nf,
            "t": side.t,
            "EEst": side.EEst,
        }
        for side in (c.reference, c.measured)
    }
    return {
        "case": c.case.name,
        "solver": c.case.solver,
        "tol": c.case.tol,
        "engine": c.measured.who,
        "against": c.reference.who,
        "sides": sides,
        "verdict": verdict(c),
        "differences": {f: "other steps" if x == float("inf") else x for f, x in c.differences.items()},
    }


def save_html(comparisons: Sequence[Comparison], paper: Sequence[PaperComparison], path: Path) -> None:
    """One page that needs nothing beside it; with pictures where `has_pictures`."""
    rows = [("" if c.same else "other", _cells(c)) for c in comparisons]
    tables = _html_table(COLUMNS, rows)
    if paper:
        rows = [("", _paper_cells(c)) for c in paper]
        tables += f"<h2>The regularizer by the paper's code</h2><p>{PAPER_NOTE}</p>"
        tables += _html_table(PAPER_COLUMNS, rows)
    pictures = "".join(
        f"<figure><figcaption>{html.escape(c.case.name)}: {html.escape(c.measured.who)}</figcaption>"
        f'<img src="data:image/png;base64,{_picture(c)}" alt="step sizes and estimates"></figure>'
        for c in (comparisons if has_pictures() else ())
    )
    write_text(
        path,
        "<!doctype html><meta charset=utf-8><title>pylocalreg parity</title><style>"
        "body{font:14px sans-serif}td,th{padding:2px 8px;text-align:right}td:first-child{text-align:left}"
        ".other{background:#fd6}figure{display:inline-block;margin:8px}</style>"
        "<h1>Parity</h1><p>Largest difference over the largest "
        "magnitude of the reference, in brackets where rounding decides it; steps are accepted + rejected."
        f"</p>{tables}{pictures}",
    )


def _html_table(columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f'<tr class="{kind}">{"".join(f"<td>{html.escape(x)}</td>" for x in cells)}</tr>'
        for kind, cells in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def has_pictures() -> bool:
    """Whether matplotlib is there to draw them."""
    return importlib.util.find_spec("matplotlib") is not None


def _picture(c: Comparison) -> str:
    """Step sizes and error estimates of both sides over time, a PNG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for side, style in ((c.reference, "o-"), (c.measured, "x--")):
        left.semilogy(side.t, [abs(dt) for dt in side.dt], style, label=side.who, markersize=4)
        right.semilogy(side.t, side.EEst, style, label=side.who, markersize=4)
    left.set(xlabel="t", ylabel="step size")
    right.set(xlabel="t", ylabel="EEst")
    left.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode()
