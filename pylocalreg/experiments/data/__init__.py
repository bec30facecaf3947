"""Data sets of the experiments: a folder of one's own, a download, or a stand-in for offline use."""

from collections.abc import Callable

import torch

from pylocalreg.errors import DataError
from pylocalreg.experiments import generators
from pylocalreg.experiments.config import DataSection
from pylocalreg.experiments.data import cifar10, mnist, physionet, points, small_digits
from pylocalreg.experiments.task import Data, DataSet, Samples

READERS: dict[str, Callable[..., DataSet]] = {
    "mnist": mnist.load,
    "cifar10": cifar10.load,
    "physionet": physionet.load,
    "points": points.load,
    "small_digits": small_digits.load,
}

SPLIT = 0
"""The seed by which a part of the training data is for validation: the same in every run."""


def load(source: DataSection) -> Data:
    """The data a config's section asks for.

    Raises:
        DataError: files are missing or broken, or can not be downloaded; there are too few samples.
    """
    found = READERS[source.name](source)
    name = found.name if source.limit is None else f"{found.name}, at most {source.limit} samples a split"
    samples = _first(found.train, source.limit)
    count = len(samples[0])
    held_back = max(round(source.validation * count), 1)
    if count <= held_back:
        raise DataError(f"{name}: of {count} samples none is left to train on: give more")
    order = torch.randperm(count, generator=generators.seeded(SPLIT))
    train, validation = order[:-held_back].sort().values, order[-held_back:].sort().values
    return Data(_rows(samples, train), _rows(samples, validation), _first(found.test, source.limit), name)


def _first(samples: Samples, count: int | None) -> Samples:
    return tuple(part[:count] for part in samples)


def _rows(samples: Samples, rows: torch.Tensor) -> Samples:
    return tuple(part[rows] for part in samples)
