"""Checkpoints: one safetensors file, its tensors by name and the rest as JSON in its header. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.files import replacing


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``step`` steps.

    Attributes:
        step: training steps done.
        seconds: what they took.
        weights: the task's ``state_dict``, on the CPU.
        optimizer: the optimizer's ``state_dict``.
        generators: states of random generators, by rank and name.
    """

    step: int
    seconds: float
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    generators: Mapping[str, torch.Tensor]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: at every moment ``path`` is the last checkpoint or this one, whole."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, weight in checkpoint.weights.items():
        tensors[f"weights/{name}"] = weight
    for name, state in checkpoint.generators.items():
        tensors[f"generators/{name}"] = state
    for index, slots in checkpoint.optimizer["state"].items():
        numbers[str(index)] = {}
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{index}/{slot}"] = value
            else:
                numbers[str(index)][slot] = value
    header = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "optimizer": {"numbers": numbers, "param_groups": checkpoint.optimizer["param_groups"]},
    }
    _write(path, tensors, {"run": json.dumps(header)})


def load(path: Path) -> Checkpoint:
    """What `save` wrote.

    Raises:
        CheckpointError: the file is none of `save`'s.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "generators": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["run"])
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key)
        state: dict[int, dict[str, Any]] = {
            int(index): dict(slots) for index, slots in header["optimizer"]["numbers"].items()
        }
        for name, tensor in parts["optimizer"].items():
            index, slot = name.split("/", 1)
            state[int(index)][slot] = tensor
        optimizer = {"state": state, "param_groups": header["optimizer"]["param_groups"]}
        return Checkpoint(header["step"], header["seconds"], parts["weights"], optimizer, parts["generators"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} of {path.stat().st_size} bytes is no checkpoint of a run ({error}): start over with "
            "restart, or in another folder"
        ) from error


def save_weights(path: Path, module: torch.nn.Module) -> None:
    """A module's parameters and buffers alone, as any reader of safetensors takes them."""
    _write(path, module.state_dict(), None)


def load_weights(path: Path, module: torch.nn.Module) -> None:
    """What `save_weights` wrote, or the weights of a checkpoint of which nothing else is read.

    Raises:
        CheckpointError: the file can not be read, or holds other names or shapes than the module.
    """
    try:
        with safe_open(path, framework="pt") as file:
            of_run = file.metadata() is not None and "run" in file.metadata()
            prefix = "weights/" if of_run else ""
            weights = {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118
                if key.startswith(prefix)
            }
        module.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold the weights of this module: {error}") from error


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    """Tensors that share memory are written one by one: the format knows no views."""
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with replacing(path) as partial:
        save_file(whole, partial, metadata=metadata)
