"""Bytes of files that may hold anything: no folder, no device, no more of them than was said."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pylocalreg.errors import DataError
from pylocalreg.experiments.files import read_bytes

LARGEST = 1 << 28
"""Bytes that one file of images may hold, unpacked; MNIST's largest has 47 million, CIFAR10's 31."""


def content(path: Path, most: int = LARGEST) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it can not be read, is no file, or holds more than ``most`` bytes.
    """
    try:
        return read_bytes(path, most)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can not be read: {error}") from error


def unpacked(path: Path, most: int = LARGEST) -> bytes:
    """What a file packed with gzip holds; no more than ``most`` bytes are ever unpacked.

    Raises:
        DataError: it is not packed with gzip, is broken, or holds more.
    """
    content(path, most)
    try:
        with gzip.open(path) as file:
            found = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can not be unpacked: {error}") from error
    if len(found) > most:
        raise DataError(f"{path} unpacks to more than {most} bytes")
    return found


def archived(path: Path, wanted: Callable[[str], bool], most: int = LARGEST) -> Iterator[tuple[str, bytes]]:
    """Name, without folders, and content of an archive's files whose name is ``wanted``, in the order of
    their paths there. Nothing is unpacked onto the disk.

    Raises:
        DataError: it is no archive packed with gzip, is broken, or one of these holds more than ``most``
            bytes.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked(path))) as opened:
            for member in sorted(opened.getmembers(), key=lambda member: member.name):
                name = Path(member.name).name
                if not (member.isfile() and wanted(name)):
                    continue
                if member.size > most:
                    raise DataError(f"{path}: {name} holds more than {most} bytes")
                file = opened.extractfile(member)
                assert file is not None
                yield name, file.read()
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} can not be unpacked: {error}") from error
