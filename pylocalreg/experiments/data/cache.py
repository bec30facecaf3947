"""Tensors that take long to make from a data set's files, kept in the user's cache folder."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pylocalreg.errors import OutputError
from pylocalreg.experiments.files import read_bytes, write_bytes

LARGEST = 1 << 32
"""Bytes of a file of tensors."""

SUM = 32
"""Bytes of the checksum before them."""


def kept(name: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What ``make`` gives, or gave in an earlier call with this name, which tells all that it depends on.

    A file that is damaged is made anew; where the folder can not be written nothing is kept.
    """
    path = _folder() / f"{name}.safetensors"
    with suppress(OSError, ValueError, SafetensorError):
        found = read_bytes(path, LARGEST)
        if hashlib.sha256(found[SUM:]).digest() == found[:SUM]:
            tensors: dict[str, torch.Tensor] = load(found[SUM:])
            return tensors
    tensors = make()
    packed = save(tensors)
    with suppress(OutputError):
        write_bytes(path, hashlib.sha256(packed).digest() + packed)
    return tensors


def _folder() -> Path:
    """Where downloads are kept too."""
    import pooch

    return Path(os.fspath(pooch.os_cache("pylocalreg")))
