"""CIFAR10 (Krizhevsky 2009): 50,000 and 10,000 colour images of 32 x 32, in the binary format."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from pylocalreg.errors import DataError
from pylocalreg.experiments.config import Images
from pylocalreg.experiments.data import standins
from pylocalreg.experiments.data.download import download, find
from pylocalreg.experiments.data.reading import archived, content
from pylocalreg.experiments.task import DataSet

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
BATCHES = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32


def load(source: Images) -> DataSet:
    """Bytes of shape ``(n, 3, 32, 32)`` and labels of shape ``(n,)``.

    The folder is that of the six ``.bin`` files, the one it was unpacked into, or the archive's. The batches
    for Python are pickles, which could run any code, and are not read. The name tells files that were not
    checked by the archive's sum.
    """
    name = "CIFAR10"
    if source.folder is None and source.offline:
        return standins.patches()
    if source.folder is None:
        contents = _packed(download(URL, SHA256))
    elif (archive := source.folder / ARCHIVE).exists():
        contents = _packed(archive)
        if hashlib.sha256(content(archive)).hexdigest() != SHA256:
            name += ", not the official archive"
    else:
        folder = source.folder
        if (folder / BATCHES).is_dir():
            folder = folder / BATCHES
        what = f"CIFAR10's binary version ({URL})"
        contents = {batch: content(find(folder, (batch,), what)) for batch in (*TRAIN, TEST)}
        name += ", not checked by the archive's sum"
    train = [_read(contents[batch], batch) for batch in TRAIN]
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return DataSet((images, labels), _read(contents[TEST], TEST), name)


def _packed(archive: Path) -> dict[str, bytes]:
    found = dict(archived(archive, (*TRAIN, TEST).__contains__))
    if lacking := [name for name in (*TRAIN, TEST) if name not in found]:
        raise DataError(f"{archive} is not CIFAR10's binary version: it lacks {lacking}")
    return found


def _read(found: bytes, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Records of a label and 3,072 bytes: red, green and blue, each row by row."""
    if not found or len(found) % RECORD:
        raise DataError(f"{name} holds {len(found)} bytes, which is no number of records of {RECORD} bytes")
    records = torch.from_numpy(np.frombuffer(found, np.uint8).reshape(-1, RECORD).copy())
    labels = records[:, 0].long()
    if int(labels.max()) > 9:
        raise DataError(f"{name} has a label {int(labels.max())}: CIFAR10's labels are 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
