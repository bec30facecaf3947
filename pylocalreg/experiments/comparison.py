"""Runs that can be compared, side by side: alike in everything but the method and the seed."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments import config
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.typed import problems

EXPERIMENTS = {
    "mnist_node": "MNIST, neural ODE",
    "mnist_nsde": "MNIST, neural SDE",
    "physionet": "Physionet 2012, latent ODE",
    "cifar10_conv": "CIFAR10, convolutional neural ODE",
    "cifar10_multiscale": "CIFAR10, multiscale neural ODE",
    "ffjord": "Densities in two dimensions, FFJORD",
    "ffjord_digits": "Digits of 8 x 8, FFJORD",
    "flow_matching": "MNIST, flow matching",
}

OF_THE_PAPER = ("mnist_node", "mnist_nsde", "physionet", "cifar10_conv", "cifar10_multiscale")

METHODS = {
    "vanilla": "vanilla",
    "steer": "STEER",
    "taynode": "TayNODE",
    "rnode": "RNODE",
    "global_error": "global error (ERNODE)",
    "global_stiffness": "global stiffness (SRNODE)",
    "local_unbiased": "local, unbiased",
    "local_biased": "local, biased",
    "paper": "local, the paper's code",
}
"""In the order of the tables' rows."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the seeds; of a single run there is no deviation."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Method:
    """The runs of one method with the same settings, by seed."""

    name: str
    label: str
    runs: tuple[Record, ...]

    @property
    def any_run(self) -> Record:
        return self.runs[0]

    def spread(self, attribute: str) -> Spread:
        return spread([getattr(run, attribute) for run in self.runs])

    def ratio(self, other: "Method", attribute: str) -> float:
        """Of the means over the seeds, to the other's."""
        return self.spread(attribute).mean / other.spread(attribute).mean


@dataclass(frozen=True)
class Comparison:
    """The methods of one experiment, on the same data, model, machine and number of steps."""

    experiment: str
    methods: tuple[Method, ...]

    @property
    def any_run(self) -> Record:
        return self.methods[0].any_run

    @property
    def compiled(self) -> bool:
        return self.any_run.device.endswith(", compiled")

    @property
    def title(self) -> str:
        """The experiment, its precision where that is not its config's, and the device where it is no CPU."""
        parts = [EXPERIMENTS[self.experiment]]
        if (dtype := self.any_run.settings["dtype"]) != config.load(self.experiment).dtype:
            parts.append(dtype)
        device = self.any_run.device.split(", ")[0]
        if device != "CPU":
            parts.append(device)
        if self.compiled:
            parts.append("compiled")
        return ", ".join(parts)

    @property
    def conditions(self) -> str:
        run = self.any_run
        train, solver = run.settings["train"], run.settings["solver"]
        parts = [
            f"data: {run.data}",
            f"{solver['name']} at abstol {solver['abstol']:g} and reltol {solver['reltol']:g}",
            f"{train['steps']} steps of batch {train['batch']}",
            f"{run.settings['dtype']} on {run.device}",
            f"{spread([start['nfe'] for start in self._starts]).mean:.1f} NFE before training",
        ]
        if run.processes > 1:
            parts.append(f"{run.processes} processes")
        return "; ".join(parts)

    @property
    def _starts(self) -> list[dict[str, Any]]:
        """Each run's evaluation before its first step: what the controller makes of dynamics that have learnt
        nothing, and near which there is nothing for a regularizer to save.
        """
        return [run.history[0] for method in self.methods for run in method.runs]

    @property
    def vanilla(self) -> Method | None:
        return next((method for method in self.methods if method.name == "vanilla"), None)


def compare(records: Sequence[Record]) -> list[Comparison]:
    """The records in groups that can be compared, in the experiments' order.

    Raises:
        CheckpointError: a record is of no experiment there is, or its settings are not an experiment's.
    """
    for record in records:
        try:
            _Settings.model_validate(record.settings)
            EXPERIMENTS[record.experiment], METHODS[record.method]
        except (KeyError, ValidationError) as error:
            raise CheckpointError(
                f"the record of {record.experiment!r}, {record.method!r}, seed {record.seed} is of no "
                f"experiment there is: {problems(error)}"
            ) from error
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_conditions(record), []).append(record)
    order = list(EXPERIMENTS)
    found = [Comparison(group[0].experiment, _methods(group)) for group in groups.values()]
    return sorted(found, key=lambda comparison: (order.index(comparison.experiment), comparison.compiled))


def paper_row(record: Record) -> str:
    """The name of the method whose numbers in the paper a run's stand beside: its code is what it ran."""
    if record.method != "paper":
        return record.method
    own = record.settings["methods"].get("paper") or {}
    return f"local_{own.get('sampling', 'unbiased')}"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Train(_Part):
    steps: int
    batch: int
    seed: int
    evaluate_every: int


class _Solver(_Part):
    name: str
    abstol: float
    reltol: float


class _Settings(_Part):
    """What is read here of a config, as it was when the run was made."""

    train: _Train
    solver: _Solver
    data: dict[str, Any]
    methods: dict[str, Any]
    dtype: str


def _conditions(record: Record) -> str:
    """All that must be alike."""
    settings: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in record.settings.items()
        if name not in ("method", "methods")
    }
    del settings["train"]["seed"], settings["train"]["evaluate_every"]
    return json.dumps([record.data, record.device, record.processes, settings], sort_keys=True)


def _methods(records: Sequence[Record]) -> tuple[Method, ...]:
    """Those with settings of their own apart, and then told apart by their settings."""
    by_settings: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        own = record.settings["methods"].get(record.method)
        by_settings.setdefault((record.method, json.dumps(own, sort_keys=True)), []).append(record)
    names = [name for name, _ in by_settings]
    found = []
    for (name, own), runs in by_settings.items():
        label = METHODS[name] if names.count(name) == 1 else f"{METHODS[name]} {_short(own)}"
        found.append(Method(name, label, tuple(sorted(runs, key=lambda run: run.seed))))
    order = list(METHODS)
    return tuple(sorted(found, key=lambda method: (order.index(method.name), method.label)))


def _short(settings: str) -> str:
    """Settings without JSON's quotes and braces."""
    return "".join(character for character in settings if character not in '{}"')
