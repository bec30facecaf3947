"""Files that are there whole or not at all, and reads of no more than was said."""

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pylocalreg.errors import OutputError


@contextmanager
def replacing(path: Path, kept: Path | None = None) -> Iterator[Path]:
    """A file to write beside ``path``, which it replaces at once when the block ends well.

    Whoever is killed inside leaves ``path`` as it was; the partial file is written over the next time. With
    ``kept`` what ``path`` was is kept under that name, and there is a moment in which it is there alone.

    Raises:
        OutputError: the file can not be written; ``path`` is as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            if kept is not None and path.exists():
                path.replace(kept)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing ``path``, as an `OutputError` with the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} can not be written ({error.strerror or error}): make room there or choose another folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, kept: Path | None = None) -> None:
    with replacing(path, kept) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_bytes(path: Path, most: int) -> bytes:
    """The file's bytes.

    Raises:
        ValueError: it holds more than ``most`` bytes, or is no file: a folder, say, or a device.
        OSError: it can not be read.
    """
    # A pipe that nobody writes to would hold up a plain open.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is a folder or a device")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(min(most, found.st_size) + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise ValueError(f"it holds more than {most} bytes")
    return content


def read_json(path: Path, most: int) -> Any:
    """The value of a JSON file; NaN and infinities are no JSON.

    Raises:
        ValueError: it is no JSON, or see `read_bytes`.
        OSError: it can not be read.
    """
    return parse_json(read_bytes(path, most))


def parse_json(text: str | bytes) -> Any:
    """See `read_json`."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _finite(digits: str) -> float:
    """1e999 would be infinity."""
    return value if math.isfinite(value := float(digits)) else _refuse(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
