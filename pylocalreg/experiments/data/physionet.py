"""PhysioNet's challenge of 2012 (Silva et al.): 48 hours of intensive care a record, irregularly observed."""

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from pylocalreg.errors import DataError
from pylocalreg.experiments.config import Records
from pylocalreg.experiments.data import physionet_files, standins
from pylocalreg.experiments.data.cache import kept
from pylocalreg.experiments.task import DataSet

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

FORMAT = 1
"""Of what is kept of parsed records: one more with every change of what is made of them."""
WORTH_KEEPING = 2000
"""Records that take some seconds to parse."""


def load(source: Records) -> DataSet:
    """Values and mask of shape ``(n, times, 37)``, and the times, ``(n, times)``, in units of 48 hours.

    As in Kelly et al. (2020), whose data the paper has, observations are averaged over bins of ``bin_hours``;
    a bin that no record observes is left out. By each parameter's smallest and largest value in all records,
    values become (x - smallest) / largest, as in Rubanova et al. (2019): what is always the same is 0, and no
    outlier is left out. They are 0 where the mask is 0. Four fifths of the records, by a fixed seed, are for
    training, the others for the test.

    A weight of -1, which stands for an unknown one, is no observation; there it is one.

    Raises:
        DataError: files are missing or broken, or can not be downloaded.
    """
    if source.folder is not None:
        texts = physionet_files.from_folder(source.folder)
    elif not source.offline:
        texts = physionet_files.downloaded()
    else:
        with TemporaryDirectory() as folder:
            standins.write_records(Path(folder))
            records = physionet_files.from_folder(Path(folder)).records
            texts = physionet_files.Texts(standins.RECORDS_NAME, records)

    def parse() -> dict[str, torch.Tensor]:
        return _parse(texts, source.bin_hours)

    if len(texts.records) < WORTH_KEEPING:
        found = parse()
    else:
        found = kept(f"physionet-{FORMAT}-{source.bin_hours:g}-{texts.digest}", parse)
    values, mask, times = found["values"], found["mask"], found["times"]
    parts = values, mask, times.expand(len(values), -1)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    train, test = order.tensor_split([round(TRAIN_SHARE * len(order))])
    return DataSet(tuple(part[train] for part in parts), tuple(part[test] for part in parts), texts.name)


def _parse(texts: physionet_files.Texts, bin_hours: float) -> dict[str, torch.Tensor]:
    """One parameter after the other, so that what is computed with doubles is a small part of the whole."""
    count = math.ceil(HOURS / bin_hours) + 1
    sums, counts = [], []
    for number, (where, text) in enumerate(texts.records, 1):
        if number * count * len(PARAMETERS) > MOST_CELLS:
            raise DataError(
                f"{texts.name}: {number} records or more in {count} bins of {bin_hours:g} hours take too "
                "much memory: make data.bin_hours larger"
            )
        total, observations = bins(text, where, bin_hours, count)
        if observations.any():
            sums.append(total)
            counts.append(observations)
    if len(sums) < 2:
        raise DataError(
            f"{texts.name}: {len(sums)} records have observations, which can not be split: give more"
        )
    seen = np.logical_or.reduce([observations.any(axis=1) for observations in counts])
    scaled = np.zeros((len(sums), int(seen.sum()), len(PARAMETERS)), np.float32)
    observed = np.zeros(scaled.shape, np.bool_)
    for index in range(len(PARAMETERS)):
        number_of = np.stack([observations[seen, index] for observations in counts])
        values = np.stack([total[seen, index] for total in sums]) / np.maximum(number_of, 1)
        there = number_of > 0
        if there.any():
            low, high = values[there].min(), values[there].max()
            scaled[..., index] = np.where(there, (values - low) / (high or 1.0), 0.0)
            observed[..., index] = there
    return {
        "values": torch.from_numpy(scaled),
        "mask": torch.from_numpy(observed),
        "times": torch.from_numpy(np.minimum(np.flatnonzero(seen) * bin_hours / HOURS, 1.0)),
    }


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
