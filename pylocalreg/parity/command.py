"""The command: cases, run and compared, printed and written."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pylocalreg.engines.julia_engine.start import why_unavailable
from pylocalreg.errors import OptionError
from pylocalreg.parity.cases import golden_cases, own_cases
from pylocalreg.parity.compare import Comparison, compare
from pylocalreg.parity.paper import compare_with_paper
from pylocalreg.parity.report import (
    PAPER_NOTE,
    has_pictures,
    paper_table,
    save_html,
    save_json,
    summary,
    table,
)


def run(
    golden: Path | None,
    engines: Sequence[str] | None,
    only: str,
    paper: Path | None,
    output: Path,
) -> None:
    """Compare the engines on every case that has ``only`` in its name, by default all engines there are; and
    their regularizer with the paper's code, where its checkout is given.

    Raises:
        OptionError: no case has that name; one engine alone and nothing to compare it with.
        EngineUnavailableError: an engine that is asked for is not there.
    """
    reason = why_unavailable()
    chosen = list(engines or (["torch"] if reason else ["torch", "julia"]))
    if golden is None and len(chosen) < 2:
        missing = f"there is no Julia ({reason})" if reason and not engines else "one alone was asked for"
        raise OptionError(
            f"parity compares two engines, or one with golden numbers, and {missing}: give --golden FOLDER, "
            "or both engines"
        )
    cases = [case for case in (own_cases() if golden is None else golden_cases(golden)) if only in case.name]
    if not cases:
        raise OptionError(f"no case has {only!r} in its name")
    comparisons: list[Comparison] = []
    for number, case in enumerate(cases, 1):
        print(f"{number} of {len(cases)}: {case.name}", file=sys.stderr)
        comparisons += compare(case, chosen)
    print(table(comparisons))
    for line in summary(comparisons):
        print(line)
    beside_paper = compare_with_paper(cases, chosen, paper) if paper else []
    if paper:
        print(paper_table(beside_paper))
        print(PAPER_NOTE)
    save_json(comparisons, beside_paper, output / "parity.json")
    save_html(comparisons, beside_paper, output / "parity.html")
    print(f"written: {output / 'parity.json'}, {output / 'parity.html'}")
    if not has_pictures():
        print("The page has no pictures: pip install matplotlib for them")
