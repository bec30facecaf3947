"""MNIST (LeCun, Cortes, Burges): 60,000 and 10,000 images of 28 x 28, in the IDX format."""

import hashlib
import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pylocalreg.errors import DataError
from pylocalreg.experiments.config import Images
from pylocalreg.experiments.data import standins
from pylocalreg.experiments.data.download import download, find
from pylocalreg.experiments.data.reading import content, unpacked
from pylocalreg.experiments.task import DataSet

URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

UNPACKED_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
"""Of what the four files hold, without their headers, one after the other."""


def load(source: Images) -> DataSet:
    """Bytes of shape ``(n, 784)`` and labels of shape ``(n,)``; the name tells files that are not the
    official ones.
    """
    if source.folder is None and source.offline:
        return standins.digits()
    parts = []
    for name in SHA256:
        if source.folder is None:
            path = download(URL + name, SHA256[name])
        else:
            path = find(source.folder, (name, name.removesuffix(".gz")), "MNIST's four IDX files")
        parts.append(read_idx(path))
    train_x, train_y, test_x, test_y = parts
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    name = "MNIST" if digest == UNPACKED_SHA256 else "MNIST, not the official files"
    return DataSet(_pair(train_x, train_y), _pair(test_x, test_y), name)


def _pair(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise DataError(f"images of shape {images.shape} and labels of shape {labels.shape} are not MNIST's")
    if labels.max() > 9:
        raise DataError(f"there is a label {labels.max()}: MNIST's labels are 0 to 9")
    return torch.from_numpy(images).reshape(len(images), -1), torch.from_numpy(labels).long()


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes, packed with gzip where its name ends in ``.gz``: two zeros, the type (8), the
    number of dimensions, each dimension as a big-endian 32-bit number, the bytes.

    Raises:
        DataError: it is none, is cut off, has bytes after its end, or no element.
    """
    found = (unpacked if path.suffix == ".gz" else content)(path)
    if len(found) < 4 or found[:3] != b"\0\0\x08":
        raise DataError(f"{path} starts with {found[:4]!r}: an IDX file of bytes starts with 0, 0, 8")
    start = 4 + 4 * found[3]
    if len(found) < start:
        raise DataError(f"{path} holds {len(found)} bytes, its header alone has {start}")
    shape = struct.unpack(f">{found[3]}I", found[4:start])
    wanted = start + math.prod(shape)
    if len(found) != wanted:
        raise DataError(f"{path} holds {len(found)} bytes, its header says {wanted} (shape {shape})")
    if wanted == start or not shape:
        raise DataError(f"{path} holds nothing: its header says shape {shape}")
    return np.frombuffer(found, np.uint8, offset=start).reshape(shape).copy()
