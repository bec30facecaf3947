"""Optimizers by name, each with a learning rate that is a function of the step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pylocalreg import schedules
from pylocalreg.experiments import config

OPTIMIZERS: dict[str, type[torch.optim.Adam] | type[torch.optim.Adamax]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
}


@dataclass(frozen=True)
class Optimization:
    """An optimizer and its learning rate by step, counted from 0."""

    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]

    def at(self, step: int) -> torch.optim.Optimizer:
        """The optimizer with the learning rate of ``step``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        return self.optimizer


def build(settings: config.Optimizer, parameters: Iterable[torch.nn.Parameter], steps: int) -> Optimization:
    """The optimizer of the settings, for a run of ``steps`` steps."""
    first = settings.learning_rate
    match settings.schedule:
        case config.Constant():
            rate: Callable[[int], float] = schedules.Constant(first)
        case config.Inverse(decay=decay):
            rate = schedules.InverseDecay(first, decay)
        case config.Cosine(end=end):
            rate = schedules.Cosine(first, end, steps)
    return Optimization(OPTIMIZERS[settings.name](parameters, lr=first), rate)
