"""The tables of docs/benchmarks.md from the figures that the benchmarks wrote with ``--json``."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def setting(figures: Figures) -> str:
    """On what it was measured, and with which versions."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return f"{figures['machine']}, {figures['device']}; medians of {figures['rounds']} rounds; {versions}."


def shape(figures: Figures) -> str:
    """`benchmarks.mnist_shape`: a table for each contest, both networks side by side, then the targets."""
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
