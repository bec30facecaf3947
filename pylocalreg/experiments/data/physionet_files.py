"""The records of PhysioNet's challenge of 2012 as text: from a folder, its archives, or a download."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pylocalreg.errors import DataError
from pylocalreg.experiments.data.download import download
from pylocalreg.experiments.data.reading import archived, content

URL = "https://physionet.org/files/challenge-2012/1.0.0/"
SHA256 = {
    "set-a.tar.gz": "8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
    "set-b.tar.gz": "b1637a2a423a8e76f8f087896cfc5fdf28f88519e1f4e874fbda69b2a64dac30",
}
LARGEST = 1 << 20
"""Bytes of a record; those of sets a and b have at most 23,826."""

NAME = "PhysioNet 2012"


@dataclass(frozen=True)
class Texts:
    """Names and texts of records, in order; ``name`` says whose they are, and whether that was checked."""

    name: str
    records: list[tuple[str, str]]

    @property
    def digest(self) -> str:
        """By which the same records are known again."""
        digest = hashlib.sha256()
        for where, text in self.records:
            digest.update(f"{Path(where).name}\0{text}\0".encode())
        return digest.hexdigest()


def from_folder(folder: Path) -> Texts:
    """The records of ``set-a`` and ``set-b`` in ``folder``, each a folder or an archive ``.tar.gz``; or those
    that lie in it.

    Raises:
        DataError: there are none, or a file is none of the challenge's.
    """
    found: list[tuple[str, str]] = []
    sums = []
    for archive in SHA256:
        inside, packed = folder / archive.removesuffix(".tar.gz"), folder / archive
        if inside.is_dir():
            found += _lying(inside)
            sums.append(False)
        elif packed.exists():
            found += _packed(packed)
            sums.append(hashlib.sha256(content(packed)).hexdigest() == SHA256[archive])
    if not sums:
        found += _lying(folder)
    if not found:
        raise DataError(
            f"{folder} holds no records: data.folder must be one with set-a and set-b, as folders or as "
            f"{', '.join(SHA256)}, or a set's own folder"
        )
    official = len(sums) == len(SHA256) and all(sums)
    return Texts(NAME if official else f"{NAME}, not checked by the archives' sums", found)


def downloaded() -> Texts:
    """Raises `DataError` where the archives can not be had, or are not the official ones."""
    paths = [download(URL + name, sha256) for name, sha256 in SHA256.items()]
    return Texts(NAME, [record for path in paths for record in _packed(path)])


def _lying(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("[0-9]*.txt")):
        yield str(path), _text(content(path, LARGEST))


def _packed(archive: Path) -> Iterator[tuple[str, str]]:
    for name, found in archived(archive, _is_record, LARGEST):
        yield f"{archive}/{name}", _text(found)


def _is_record(name: str) -> bool:
    return name.endswith(".txt") and name[0].isdigit()


def _text(found: bytes) -> str:
    return found.decode("ascii", errors="replace")
