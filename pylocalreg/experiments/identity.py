"""What makes two runs the same one, so that nothing is resumed as what it is not."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

import pylocalreg
from pylocalreg.experiments.task import Data, Task
from pylocalreg.experiments.typed import Count, Index, Typed

HYPERPARAMETERS = ("betas", "eps", "weight_decay", "amsgrad", "momentum", "dampening", "nesterov", "maximize")
"""Of an optimizer's groups: what changes its steps, but for the learning rate, which follows the settings."""


class Identity(Typed):
    """Everything the bits of a run depend on but the versions of the software, which `software` tells.

    Attributes:
        experiment, method, seed: which run.
        settings: its whole configuration.
        plan: the numbers of steps, of samples a step, and of steps between evaluations.
        processes: how many train it together.
        device: the processor's threads, or the GPU's name, and whether steps are compiled.
        model: dtype and shape of every parameter and buffer, by name.
        optimizer: its name and hyperparameters.
        data: their name, sizes and digest.
    """

    experiment: str
    method: str
    seed: Index
    settings: dict[str, Any]
    plan: dict[str, int]
    processes: Count
    device: str
    model: dict[str, str]
    optimizer: dict[str, Any]
    data: str


def software() -> str:
    """The versions that may change a run's bits."""
    return f"pylocalreg {pylocalreg.__version__}, torch {torch.__version__}"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def place(task: Task, device: torch.device) -> str:
    """The device's name, and whether steps are compiled on it, which round otherwise."""
    compiled = any(node.compiled is not None for node in task.neural_odes)
    return device_name(device) + (", compiled" if compiled else "")


def describe_model(task: Task) -> dict[str, str]:
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        for name, tensor in task.state_dict().items()
    }


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """In JSON's types."""
    found: dict[str, Any] = {"name": type(optimizer).__name__}
    for number, group in enumerate(optimizer.param_groups):
        for name in HYPERPARAMETERS:
            if name in group:
                value = group[name]
                found[f"{name}.{number}"] = list(value) if isinstance(value, tuple) else value
    return found


def describe_data(data: Data) -> str:
    """Name, sizes, and the first 64 bits of a SHA-256 over every tensor's dtype, shape and bytes."""
    digest = hashlib.sha256()
    for part in (*data.train, *data.validation, *data.test):
        digest.update(f"{part.dtype} {list(part.shape)}".encode())
        digest.update(tensor_bytes(part))
    sizes = ", ".join(str(len(part[0])) for part in (data.train, data.validation, data.test))
    return f"{data.name}: {sizes} samples, {digest.hexdigest()[:16]}"


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's elements as they lie in memory, row by row."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    view: memoryview = flat.view(torch.uint8).numpy().data
    return view


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their names with dots."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, "settings.train.steps was 6, now 7", say; empty where nothing does."""
    one, other = flat(before), flat(now)
    return "; ".join(
        f"{name} was {one.get(name)}, now {other.get(name)}"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    )
