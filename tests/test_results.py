"""The pages' tables are those of the committed records."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results

ROOT = Path(__file__).parents[1]


def test_the_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.results", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_place_is_filled_and_nothing_else_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(results.PARTS, "digits", lambda: "| a | b |")
    page = "before\n<!-- results: digits -->\nold\n<!-- end -->\nafter | c |\n"
    once = results.filled(page)
    assert once == "before\n<!-- results: digits -->\n\n| a | b |\n\n<!-- end -->\nafter | c |\n"
    assert results.filled(once) == once
    with pytest.raises(KeyError, match="unknown"):
        results.filled("<!-- results: unknown -->\n<!-- end -->")
