"""A run's log: one JSON object a line, and TensorBoard beside it if asked for."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.checkpoint import Mark
from pylocalreg.experiments.files import parse_json, read_bytes, write_bytes, writing
from pylocalreg.experiments.typed import Index
from pylocalreg.monitor import summary_writer

Row = dict[str, Any]


class _Form(BaseModel):
    """What a row is: its kind, its step and the kind's own numbers."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    kind: Literal["train", "validation"]
    step: Index


LARGEST = 1 << 30
"""Bytes of a log: some four million steps."""


class Log:
    """Rows ``{"kind": ..., "step": ..., ...}`` in ``log.jsonl`` under ``folder``.

    Args:
        folder: the run's.
        mark: the log of the checkpoint that the run goes on from; what was logged after it is dropped, and
            will be logged again. None for a new run.
        step: the checkpoint's, -1 for a new run.
        tensorboard: whether numbers also go to TensorBoard's files in ``folder/tensorboard``.

    Raises:
        CheckpointError: the file does not begin with what the mark tells.
        OptionError: TensorBoard is not installed.
        OutputError: the file can not be written.
    """

    def __init__(self, folder: Path, mark: Mark | None = None, step: int = -1, tensorboard: bool = False):
        self._path = folder / "log.jsonl"
        before = b"" if mark is None else marked(self._path, mark)
        self._board = _board(folder / "tensorboard", step) if tensorboard else None
        self._board_folder = folder / "tensorboard"
        self._digest, self._length = hashlib.sha256(before), len(before)
        write_bytes(self._path, before)
        with writing(self._path):
            self._file = self._path.open("ab")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One row, in the file when the call returns, so that a killed run has logged what it did."""
        line = (json.dumps({"kind": kind, "step": step, **values}, allow_nan=False) + "\n").encode()
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
        self._digest.update(line)
        self._length += len(line)
        if self._board is not None:
            with writing(self._board_folder):
                for name, value in values.items():
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> Mark:
        """The rows are on the disk when a checkpoint relies on them; it holds their mark."""
        with writing(self._path):
            os.fsync(self._file.fileno())
        return Mark(length=self._length, sha256=self._digest.hexdigest())

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        # A row that did not fit on the disk is tried again by close, and has been reported.
        with suppress(OSError):
            self._file.close()
        if self._board is not None:
            with writing(self._board_folder):
                self._board.close()


def marked(path: Path, mark: Mark) -> bytes:
    """The log as it was at the mark.

    Raises:
        CheckpointError: the file does not begin with it.
    """
    content = _content(path)[: mark.length]
    if len(content) < mark.length or hashlib.sha256(content).hexdigest() != mark.sha256:
        raise CheckpointError(
            f"{path} does not begin with the {mark.length} bytes that the checkpoint was saved with"
        )
    return content


def read(path: Path) -> Iterator[Row]:
    """A log's rows; a last line that a kill cut off is left out, and a file that is not there has none.

    Raises:
        CheckpointError: a line is no row.
    """
    if not path.exists():
        return
    *lines, _ = _content(path).split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row: Row = parse_json(line)
            _Form.model_validate(row)
        except ValueError as error:
            raise CheckpointError(f"{path}, line {number}: {line[:80]!r} is no row of a log") from error
        yield row


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can not be read: {error}") from error


def _board(folder: Path, step: int) -> Any:
    with writing(folder):
        return summary_writer(folder, purge_step=step + 1)
