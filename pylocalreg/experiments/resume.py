"""Which checkpoint a run goes on from, if any, and how it becomes the state of a task and its optimizer."""

import warnings
from pathlib import Path

import torch

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments import checkpoint, generators
from pylocalreg.experiments.checkpoint import Checkpoint, Progress
from pylocalreg.experiments.files import writing
from pylocalreg.experiments.identity import Identity, changes
from pylocalreg.experiments.log import marked
from pylocalreg.experiments.task import Task

CHECKPOINT, BROKEN = "checkpoint.safetensors", "checkpoint.broken.safetensors"


def settle(folder: Path, identity: Identity) -> None:
    """Afterwards the newest checkpoint that is whole, with the log it was saved with, stands at its place. A
    broken one is put aside, and what is done about it said in a warning.

    Raises:
        CheckpointError: there are checkpoints, but none is whole; or one is of another run.
        OutputError: a file can not be renamed.
    """
    newest = folder / CHECKPOINT
    older = checkpoint.previous(newest)
    failures = []
    for path in (newest, older):
        try:
            found = checkpoint.load(path)
            differing = changes(found.progress.identity.model_dump(), identity.model_dump())
            if not differing:
                marked(folder / "log.jsonl", found.progress.log)
        except CheckpointError as error:
            failures.append(str(error))
            continue
        if differing:
            raise CheckpointError(
                f"{path} is of another run ({differing}): take another folder, or start over with restart"
            )
        if path == older:
            warnings.warn(
                f"{'; '.join(failures)}: going on from the one before, of step {found.progress.step}",
                stacklevel=2,
            )
            with writing(newest):
                if newest.exists():
                    newest.replace(folder / BROKEN)
                older.replace(newest)
        return
    if newest.exists() or older.exists():
        raise CheckpointError(f"{'; '.join(failures)}: start over with restart, or in another folder")


def restore(path: Path, rank: int, task: Task, optimizer: torch.optim.Optimizer) -> Progress:
    """The checkpoint's weights, moments and this rank's generators; how far it is.

    Raises:
        CheckpointError: it can not be read, or does not fit the task or the optimizer.
    """
    found = checkpoint.load(path)
    try:
        _check_moments(found, optimizer)
        task.load_state_dict(dict(found.weights))
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": found.optimizer, "param_groups": groups})
        mine = f"{rank}/"
        generators.restore(
            task.generators(),
            {name.removeprefix(mine): g for name, g in found.generators.items() if name.startswith(mine)},
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this run: {error}") from error
    return found.progress


def _check_moments(found: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """`load_state_dict` takes anything, and the next step starts missing moments from 0."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({frozenset(slots) for slots in found.optimizer.values()}) > 1:
        raise ValueError("the optimizer's state of some parameters is there in part")
    for index, slots in found.optimizer.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimizer has {len(parameters)} parameters, none of number {index}")
        for name, value in slots.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameters[index].shape:
                raise ValueError(
                    f"the optimizer's {name} of parameter {index} has shape {list(value.shape)}, the "
                    f"parameter {list(parameters[index].shape)}"
                )
