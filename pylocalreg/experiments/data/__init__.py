"""Data sets of the experiments: a folder of one's own, a download, or a stand-in for offline use."""

from collections.abc import Callable

import torch

from pylocalreg.experiments.config import Images, Records
from pylocalreg.experiments.data import cifar10, mnist, physionet
from pylocalreg.experiments.task import Data

READERS: dict[str, Callable[..., Data]] = {
    "mnist": mnist.load,
    "cifar10": cifar10.load,
    "physionet": physionet.load,
}


def load(source: Images | Records) -> Data:
    """The data a config's section asks for.

    Raises:
        DataError: files are missing or broken, or can not be downloaded.
    """
    data = READERS[source.name](source)
    if source.limit is None:
        return data

    def first(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[: source.limit] for tensor in tensors)

    return Data(first(data.train), first(data.test), f"{data.name}, at most {source.limit} samples a split")
