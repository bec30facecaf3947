"""Checkpoints: one safetensors file, its tensors by name and the rest as JSON in its header. No pickle.

The header also holds a SHA-256 over all of it: a file in which one bit is not as it was written is not read.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.files import parse_json, write_bytes
from pylocalreg.experiments.identity import Identity, tensor_bytes
from pylocalreg.experiments.typed import Index, NotNegative, Typed, problems

SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PARTS = ("weights", "generators", "optimizer")


class Mark(Typed):
    """The log when a checkpoint was saved: its length in bytes, and their digest."""

    length: Index
    sha256: SHA256


class Progress(Typed):
    """What a checkpoint holds beside tensors.

    Attributes:
        identity: the run's.
        software: the versions it was trained with, in their order.
        step: training steps done.
        seconds: what they took.
        log: the log up to here.
    """

    identity: Identity
    software: Annotated[list[str], Field(min_length=1)]
    step: Index
    seconds: NotNegative
    log: Mark

    @model_validator(mode="after")
    def _planned(self) -> "Progress":
        if self.step > self.identity.plan["steps"]:
            raise ValueError(f"step {self.step} of a run of {self.identity.plan['steps']}")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A run after some steps.

    Attributes:
        progress: which run, and how far.
        weights: the task's ``state_dict``, on the CPU.
        optimizer: the optimizer's state: by parameter and name, tensors and numbers.
        generators: states of random generators, by rank and name.
    """

    progress: Progress
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    generators: Mapping[str, torch.Tensor]


class _Header(Typed):
    progress: Progress
    numbers: dict[int, dict[str, bool | int | float | None]]
    """The optimizer's that are no tensors."""


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is kept."""
    return path.with_stem(f"{path.stem}.previous")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically, and keep the one before at `previous`: at every moment one of the two is whole.

    Raises:
        OutputError: it can not be written; the last one is where it was.
    """
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[int, dict[str, Any]] = {}
    for name, weight in checkpoint.weights.items():
        tensors[f"weights/{name}"] = weight
    for name, state in checkpoint.generators.items():
        tensors[f"generators/{name}"] = state
    for index, slots in checkpoint.optimizer.items():
        numbers[index] = {}
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{index}/{slot}"] = value
            else:
                numbers[index][slot] = value
    header = _Header(progress=checkpoint.progress, numbers=numbers)
    write_bytes(path, _packed(tensors, header.model_dump_json()), previous(path))


def load(path: Path) -> Checkpoint:
    """What `save` wrote.

    Raises:
        CheckpointError: the file is none of `save`'s, or not as it was written.
    """
    try:
        text, tensors = _unpacked(path)
        if text is None:
            raise ValueError("it holds no run")
        parse_json(text)  # pydantic's parser takes 1e999 where any value may stand
        header = _Header.model_validate_json(text)
        parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        optimizer: dict[int, dict[str, Any]] = {index: dict(slots) for index, slots in header.numbers.items()}
        for name, tensor in parts["optimizer"].items():
            index, slot = name.split("/", 1)
            optimizer[int(index)][slot] = tensor
    except UNREADABLE as error:
        raise CheckpointError(f"{path} is no checkpoint of a run: {problems(error)}") from error
    return Checkpoint(header.progress, parts["weights"], optimizer, parts["generators"])


def save_weights(path: Path, module: torch.nn.Module) -> None:
    """A module's parameters and buffers alone, as any reader of safetensors takes them.

    Raises:
        OutputError: they can not be written.
    """
    write_bytes(path, _packed(module.state_dict(), None))


def load_weights(path: Path, module: torch.nn.Module) -> None:
    """What `save_weights` wrote, the weights of a checkpoint of which nothing else is read, or those of any
    safetensors file with the names of the module's.

    Raises:
        CheckpointError: the file can not be read, is not as it was written, or holds other names or shapes
            than the module.
    """
    try:
        text, tensors = _unpacked(path)
        prefix = "" if text is None else "weights/"
        weights = {
            key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)
        }
        module.load_state_dict(weights)
    except UNREADABLE as error:
        raise CheckpointError(f"{path} does not hold the weights of this module: {error}") from error


UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What safetensors, JSON and torch raise at a broken file."""


def _packed(tensors: Mapping[str, torch.Tensor], run: str | None) -> bytes:
    """Tensors that share memory are written one by one: the format knows no views."""
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = {} if run is None else {"run": run}
    return serialize(whole, {**metadata, "sha256": _digest(whole, run)})


def _unpacked(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """The run's header, if there is one, and the tensors. A file with a header and no digest is refused; one
    with neither is some other program's.
    """
    if not path.is_file():
        raise ValueError("it is a folder or a device" if path.exists() else "there is none")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    run = metadata.get("run")
    if run is not None and "sha256" not in metadata:
        raise ValueError("it has no checksum, as those of older versions")
    if "sha256" in metadata and metadata["sha256"] != _digest(tensors, run):
        raise ValueError("its bytes are not those that were written")
    return run, tensors


def _digest(tensors: Mapping[str, torch.Tensor], run: str | None) -> str:
    digest = hashlib.sha256((run or "").encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
