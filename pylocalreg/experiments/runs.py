"""An experiment's config as a run: its data, its task and its training, in a folder of its own."""

from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from pylocalreg.errors import ConfigError, OptionError
from pylocalreg.experiments import generators, optimizers, train
from pylocalreg.experiments.config import Config
from pylocalreg.experiments.data import load
from pylocalreg.experiments.distributed import Team
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.task import Data, Samples, Task
from pylocalreg.experiments.tasks import build
from pylocalreg.experiments.train import Plan, Report
from pylocalreg.precision import exact_convolutions

SAVES = 50
"""Checkpoints of a run."""


def folder_of(output: Path, name: str, config: Config) -> Path:
    """``name`` is the config's, by which a short run does not meet the whole one of the same experiment.

    Raises:
        ConfigError: it is no name of a folder in ``output``: that of ``...yaml`` would be ``..``.
    """
    if Path(name).name != name or not name.strip("."):
        raise ConfigError(f"a config named {name!r} gives its runs no folder of their own: name it otherwise")
    return output / name / config.method / f"seed-{config.train.seed}"


@exact_convolutions()
def run(
    config: Config,
    folder: Path,
    team: Team,
    *,
    report: Report | None = None,
    tensorboard: bool = False,
    restart: bool = False,
    compiled: bool = False,
) -> Record:
    """Train the config's model in ``folder``, or go on with it; see `train.train` for errors.

    The seed fixes the initial weights, the order of the data and, with the rank, all other draws.
    """
    data = load(config.data)
    generator = generators.seeded(config.train.seed, team.rank)
    torch.manual_seed(generator.initial_seed())
    task = build(config, data, generator).to(team.device)
    if compiled:
        compile_steps(task)
    plan = Plan(
        experiment=config.task.name,
        method=config.method,
        seed=config.train.seed,
        steps=config.train.steps,
        batch=config.train.batch,
        test_batch=config.train.test_batch,
        evaluate_every=config.train.evaluate_every,
        save_every=max(config.train.steps // SAVES, 1),
        settings=own_settings(config),
    )
    placed = Data(
        _to(data.train, team.device),
        _to(data.validation, team.device),
        _to(data.test, team.device),
        data.name,
    )
    optimization = optimizers.build(config.optimizer, task.parameters(), config.train.steps)
    return train.train(
        task,
        placed,
        optimization,
        plan,
        folder,
        team,
        report=report,
        tensorboard=tensorboard,
        restart=restart,
    )


def compile_steps(task: Task) -> None:
    """Every neural ODE's of the task.

    Raises:
        OptionError: it has none, or one of a method without compiled steps.
    """
    if not task.neural_odes:
        raise OptionError(f"--compile: {type(task).__name__} has no neural ODE: run it without")
    for node in task.neural_odes:
        plr.compile(node)


def own_settings(config: Config) -> dict[str, Any]:
    """The config in JSON's types, without what changes nothing in the run: other methods' settings, and the
    folder of the data, of which a run keeps a digest.
    """
    settings: dict[str, Any] = config.model_dump(mode="json", exclude={"data": {"folder"}})
    own = settings["methods"].get(config.method)
    return {**settings, "methods": {} if own is None else {config.method: own}}


def _to(samples: Samples, device: torch.device) -> Samples:
    return tuple(part.to(device) for part in samples)
