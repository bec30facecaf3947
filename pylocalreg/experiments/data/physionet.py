"""PhysioNet's challenge of 2012 (Silva et al.): 48 hours of intensive care a record, irregularly observed."""

import math
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from pylocalreg.errors import DataError
from pylocalreg.experiments.config import Records
from pylocalreg.experiments.data import standins
from pylocalreg.experiments.data.download import download
from pylocalreg.experiments.data.reading import content
from pylocalreg.experiments.task import Data

URL = "https://physionet.org/files/challenge-2012/1.0.0/"
SHA256 = {
    "set-a.tar.gz": "8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
    "set-b.tar.gz": "b1637a2a423a8e76f8f087896cfc5fdf28f88519e1f4e874fbda69b2a64dac30",
}
HOURS = 48.0
TRAIN_SHARE = 0.8
HEADER = "Time,Parameter,Value"
LINE = re.compile(
    r"(?P<hours>[0-9]{2}):(?P<minutes>[0-5][0-9]),(?P<parameter>\w+),"
    r"(?P<value>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)"
)
LOWEST, HIGHEST = -100.0, 1e5
"""Of a value. In the challenge's sets a and b they lie between -17.8 (Temp) and 19,990 (Urine): what is far
outside would take the scale from all other records.
"""
LARGEST = 1 << 20
"""Bytes of a record; those of sets a and b have at most 23,826."""
MOST_CELLS = 200_000_000
"""Records times bins times parameters: some three gigabytes while they are read."""
DESCRIPTORS = frozenset({"RecordID", "Age", "Gender", "Height", "ICUType"})
PARAMETERS = [
    "Albumin",
    "ALP",
    "ALT",
    "AST",
    "Bilirubin",
    "BUN",
    "Cholesterol",
    "Creatinine",
    "DiasABP",
    "FiO2",
    "GCS",
    "Glucose",
    "HCO3",
    "HCT",
    "HR",
    "K",
    "Lactate",
    "MAP",
    "MechVent",
    "Mg",
    "NIDiasABP",
    "NIMAP",
    "NISysABP",
    "Na",
    "PaCO2",
    "PaO2",
    "Platelets",
    "RespRate",
    "SaO2",
    "SysABP",
    "Temp",
    "TroponinI",
    "TroponinT",
    "Urine",
    "WBC",
    "Weight",
    "pH",
]
"""The 37 time series; a record's descriptors stand in its first minute and are left out."""
INDEX = {name: index for index, name in enumerate(PARAMETERS)}

Text = tuple[str, str]
"""A record's name and its file's text."""


def load(source: Records) -> Data:
    """Values and mask of shape ``(n, times, 37)``, and the times, ``(n, times)``, in units of 48 hours.

    Observations are averaged over bins of ``bin_hours``; a bin that no record observes is left out. By each
    parameter's smallest and largest value in all records, as in Rubanova et al. (2019), values are scaled to
    [0, 1]; they are 0 where the mask is 0. Four fifths of the records, by a fixed seed, are for training.
    """
    if source.folder is not None:
        return _data(_texts(source.folder), source.bin_hours, "PhysioNet 2012")
    if not source.offline:
        return _data(_downloaded(), source.bin_hours, "PhysioNet 2012")
    with TemporaryDirectory() as folder:
        standins.write_records(Path(folder))
        return _data(_texts(Path(folder)), source.bin_hours, standins.RECORDS_NAME)


def _texts(folder: Path) -> Iterator[Text]:
    """The ``.txt`` files of sets a and b in ``folder``, or of the folder itself where it has no sets."""
    sets = [folder / name for name in ("set-a", "set-b") if (folder / name).is_dir()]
    places = sets or ([folder] if folder.is_dir() else [])
    paths = sorted(path for place in places for path in place.glob("[0-9]*.txt"))
    if not paths:
        raise DataError(
            f"{folder} holds no records: data.folder must be one with set-a/ and set-b/, or a set"
        )
    for path in paths:
        yield str(path), content(path, LARGEST).decode("ascii", errors="replace")


def _downloaded() -> Iterator[Text]:
    for name, sha256 in SHA256.items():
        with tarfile.open(download(URL + name, sha256)) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = archive.extractfile(member) if member.name.endswith(".txt") else None
                if file is not None:
                    yield member.name, file.read().decode("ascii", errors="replace")


def _data(texts: Iterable[Text], bin_hours: float, name: str) -> Data:
    """One parameter after the other, so that what is computed with doubles is a small part of the whole."""
    count = math.ceil(HOURS / bin_hours) + 1
    sums, counts = [], []
    for number, (where, text) in enumerate(texts, 1):
        if number * count * len(PARAMETERS) > MOST_CELLS:
            raise DataError(
                f"{name}: {number} records or more in {count} bins of {bin_hours:g} hours take too much "
                "memory: make data.bin_hours larger"
            )
        total, observations = bins(text, where, bin_hours, count)
        if observations.any():
            sums.append(total)
            counts.append(observations)
    if len(sums) < 2:
        raise DataError(f"{name}: {len(sums)} records have observations, which can not be split: give more")
    seen = np.logical_or.reduce([observations.any(axis=1) for observations in counts])
    scaled = np.zeros((len(sums), int(seen.sum()), len(PARAMETERS)), np.float32)
    observed = np.zeros(scaled.shape, np.bool_)
    for index in range(len(PARAMETERS)):
        number_of = np.stack([observations[seen, index] for observations in counts])
        values = np.stack([total[seen, index] for total in sums]) / np.maximum(number_of, 1)
        there = number_of > 0
        if there.any():
            low, high = values[there].min(), values[there].max()
            scaled[..., index] = np.where(there, (values - low) / (high - low if high > low else 1.0), 0.0)
            observed[..., index] = there
    times = torch.from_numpy(np.minimum(np.flatnonzero(seen) * bin_hours / HOURS, 1.0))
    parts = (
        torch.from_numpy(scaled),
        torch.from_numpy(observed),
        times.expand(len(scaled), -1),
    )
    order = torch.randperm(len(scaled), generator=torch.Generator().manual_seed(0))
    train, test = order.tensor_split([round(TRAIN_SHARE * len(order))])
    return Data(tuple(part[train] for part in parts), tuple(part[test] for part in parts), name)


def bins(
    text: str, where: str, bin_hours: float, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Sum and number of a record's observations by nearest bin and parameter, shape ``(count, 37)``.

    Raises:
        DataError: a line is none of the challenge's; ``where`` is the file's name in its message.
    """
    sums = np.zeros((count, len(PARAMETERS)), np.float32)
    counts = np.zeros((count, len(PARAMETERS)), np.int32)
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise DataError(
            f"{where} starts with {lines[0][:40] if lines else ''!r}: a record starts with {HEADER!r}"
        )
    for number, line in enumerate(lines[1:], 2):
        found = LINE.fullmatch(line.strip())
        if found is None:
            raise DataError(f"{where}, line {number}: {line[:80]!r} is not 'HH:MM,parameter,number'")
        parameter, value = found["parameter"], float(found["value"])
        at = int(found["hours"]) + int(found["minutes"]) / 60
        if parameter in DESCRIPTORS:
            continue
        if parameter not in INDEX or at > HOURS or not LOWEST <= value <= HIGHEST:
            raise DataError(
                f"{where}, line {number}: {line[:80]!r} is no known parameter within {HOURS:g} hours and "
                f"between {LOWEST:g} and {HIGHEST:g}"
            )
        if parameter == "Weight" and value < 0:  # -1: not known
            continue
        place = round(at / bin_hours), INDEX[parameter]
        sums[place] += value
        counts[place] += 1
    return sums, counts
