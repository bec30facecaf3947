"""Runs of a benchmark kept as lines of JSON, so that a call goes on where an earlier one was stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Records:
    """The runs in a file, or none where there is no such file yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = list(read(path)) if path.exists() else []

    def has(self, **wanted: Any) -> bool:
        """Whether there is a run with these."""
        return any(all(run[name] == value for name, value in wanted.items()) for run in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        self.runs.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)
