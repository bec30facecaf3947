"""The tables of docs/benchmarks.md from the figures that the benchmarks wrote with ``--json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.networks import DISCRETE, F_ALONE, PYLOCALREG

Figures = Mapping[str, Any]


def setting(figures: Figures) -> str:
    """On what it was measured, by which clock, and with which versions."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    measured = f"{figures['clock']}, medians of {figures['rounds']} rounds"
    return f"{figures['machine']}, {figures['device']}; {measured}; {versions}."


def shape(figures: Figures) -> str:
    """`benchmarks.networks`: a table for each contest, both scales side by side, then the targets."""
    scales: Mapping[str, Sequence[Figures]] = figures["scales"]
    parts = [setting(figures)]
    for contests in zip(*scales.values(), strict=True):
        parts.append(_contest(tuple(scales), contests))
    parts.append(_targets(scales))
    return "\n\n".join(parts)


def _contest(scales: Sequence[str], contests: Sequence[Figures]) -> str:
    errors = any(row["error"] is not None for row in contests[0]["rows"])
    names = ("NFE", "ms", "ratio", "error") if errors else ("NFE", "ms", "ratio")
    header = [contests[0]["contest"], *(f"{scale}: {names[0]}" for scale in scales)]
    columns = [header[0]]
    for title in header[1:]:
        columns += [title, *names[1:]]
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    found = [{row["contestant"]: row for row in contest["rows"]} for contest in contests]
    for contestant in dict.fromkeys(name for rows in found for name in rows):
        cells = [contestant]
        for rows in found:
            row = rows.get(contestant)
            cells += _cells(row, errors) if row else [""] * len(names)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: Figures, errors: bool) -> list[str]:
    cells = [str(row["calls"]), f"{row['ms']:.3g}", f"{row['ratio']:.2f}"]
    if errors:
        cells.append("" if row["error"] is None else f"{row['error']:.0e}")
    return cells


def _targets(scales: Mapping[str, Sequence[Figures]]) -> str:
    lines = [f"| {' | '.join(['target', *scales])} |", "|---" + "|---" * len(scales) + "|"]
    verdicts = {
        scale: {target["target"]: target for contest in contests for target in contest["targets"]}
        for scale, contests in scales.items()
    }
    for text in next(iter(verdicts.values())):
        cells = [_verdict(of[text]) for of in verdicts.values()]
        lines.append(f"| {' | '.join([text, *cells])} |")
    return "\n".join(lines)


def _verdict(target: Figures) -> str:
    if target["measured"] is None:
        return "not measured"
    return f"{target['measured']:.2f}, {'met' if target['verdict'] == 'PASS' else 'missed'}"


def sde(figures: Figures) -> str:
    """`benchmarks.sde`: a table for each strong error that was aimed at."""
    parts = [setting(figures)]
    for target, rows in figures["targets"].items():
        lines = [
            f"| strong error at most {float(target):.0e} | 1/dt, 1/tol | error | solve ms | ratio "
            "| training step ms | ratio |",
            "|---" + "|---:" * 6 + "|",
        ]
        for row in rows:
            cells = [row["peer"], str(row["size"]), f"{row['error']:.0e}"]
            for kind in ("solve", "train"):
                ratio = row[f"{kind}_ratio"]
                cells += [f"{row[f'{kind}_ms']:.3g}", "" if ratio is None else f"{ratio:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


FORWARD, TRAINING = "forward solve", "training step"


def against_peers(shapes: Sequence[Figures]) -> str:
    """The README's: each contestant's time as a multiple of pylocalreg's by default, as initialized and as
    after training; bold where it is the faster.
    """
    columns = {
        f"{figures['shape']}, {kind}": _multiples(figures, kind)
        for figures in shapes
        for kind in (FORWARD, TRAINING)
    }
    names = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [f"| {' | '.join(['', *columns])} |", "|---" + "|---:" * len(columns) + "|"]
    for name in names:
        cells = [column.get(name, "") for column in columns.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _multiples(figures: Figures, kind: str) -> dict[str, str]:
    cells: dict[str, list[str]] = {}
    for contests in figures["scales"].values():
        (contest,) = (contest for contest in contests if contest["contest"].startswith(kind))
        ratios = {_plain(row["contestant"]): row["ratio"] for row in contest["rows"]}
        for name, ratio in ratios.items():
            multiple = ratio / ratios[PYLOCALREG]
            shown = f"{multiple:.2f}" if multiple < 10 else f"{multiple:.0f}"
            cells.setdefault(name, []).append(f"**{shown}**" if multiple < 1 else shown)
    return {name: ", ".join(shown) for name, shown in cells.items() if name != F_ALONE}


def _plain(contestant: str) -> str:
    """One name for a forward solve and a training step of the same."""
    return contestant.replace(DISCRETE, PYLOCALREG)
