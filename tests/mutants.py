"""``python -m tests.mutants [WORD]``: each mistake of ``mutants.yaml``, made in a copy of the tree, has to
fail the tests that stand beside it. With a word, those in whose file or text it is.

Ends with 1 where a mistake is found by no test and has no reason for it, where less than 95 percent of a
group are found, or where the text that one would change does not stand in its file once.
"""

import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).parent.parent
WANTED = 0.95
FAILED = 1
"""What pytest ends with where tests failed; any other number than 0 says that none could run."""


@dataclass(frozen=True)
class Mutant:
    """``new`` in the place of ``old`` in a file; ``survives`` says why no test could find it."""

    group: str
    file: str
    old: str
    new: str
    tests: str
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"


def mutants() -> list[Mutant]:
    return [Mutant(**entry) for entry in yaml.safe_load((ROOT / "tests/mutants.yaml").read_text())]


def copied(folder: Path) -> None:
    """The tree as git would commit it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


def outcome(folder: Path, tests: str) -> int:
    """What pytest ends with."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def verdict(folder: Path, mutant: Mutant, passing: dict[str, bool]) -> str:
    """``found``, ``SURVIVES``, or what is wrong with the list."""
    path = folder / mutant.file
    whole = path.read_text() if path.exists() else ""
    if whole.count(mutant.old) != 1:
        return f"STALE: its text stands {whole.count(mutant.old)} times in the file"
    if mutant.tests not in passing:
        passing[mutant.tests] = outcome(folder, mutant.tests) == 0
    if not passing[mutant.tests]:
        return "UNTESTED: its tests fail without it"
    try:
        path.write_text(whole.replace(mutant.old, mutant.new))
        ended = outcome(folder, mutant.tests)
    finally:
        path.write_text(whole)
    if ended == FAILED:
        return "found"
    return "SURVIVES" if ended == 0 else f"BROKEN: pytest ends with {ended}"


def main(word: str = "") -> int:
    every = mutants()
    chosen = [mutant for mutant in every if word in str(mutant)]
    found: Counter[str] = Counter()
    wrong = 0
    with TemporaryDirectory() as name:
        copied(folder := Path(name))
        passing: dict[str, bool] = {}
        for mutant in chosen:
            said = verdict(folder, mutant, passing)
            found[mutant.group] += said == "found"
            excused = said == "SURVIVES" and mutant.survives
            wrong += said != "found" and not excused
            print(f"{said:9} {mutant}{f' ({mutant.survives})' if excused else ''}", flush=True)
    for group, count in Counter(mutant.group for mutant in chosen).items():
        enough = found[group] >= WANTED * count
        wrong += not enough
        print(f"{group}: {found[group]} of {count} found{'' if enough else ', too few'}")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
