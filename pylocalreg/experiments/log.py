"""A run's log: one JSON object a line, and TensorBoard beside it if asked for."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pylocalreg.errors import OptionError
from pylocalreg.experiments.files import write_text

Row = dict[str, Any]


class Log:
    """Rows ``{"kind": ..., "step": ..., ...}`` in ``log.jsonl`` under ``folder``.

    Args:
        folder: the run's.
        step: the step a run goes on from; what was logged after it is dropped, and will be logged again.
        tensorboard: whether numbers also go to TensorBoard's files in ``folder/tensorboard``.

    Raises:
        OptionError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False) -> None:
        self._board = _board(folder / "tensorboard", step) if tensorboard else None
        path = folder / "log.jsonl"
        write_text(path, "".join(json.dumps(row) + "\n" for row in read(path) if row["step"] <= step))
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One row, in the file when the call returns, so that a killed run has logged what it did."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """To the disk, before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> Iterator[Row]:
    """A log's rows; a last line that a kill cut off is left out."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise OptionError(f"tensorboard needs {error.name}: pip install 'pylocalreg[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=step + 1)  # type: ignore[no-untyped-call]
