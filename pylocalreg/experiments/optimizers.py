"""Optimizers by name, each with a learning rate that is a function of the step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pylocalreg.errors import OptionError

OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
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


def build(name: str, parameters: Iterable[torch.nn.Parameter], rate: Callable[[int], float]) -> Optimization:
    """The optimizer of this name, with torch's own settings but for the learning rate.

    Raises:
        OptionError: there is none of this name.
    """
    if name not in OPTIMIZERS:
        raise OptionError(f"optimizer {name!r} does not exist: choose one of {sorted(OPTIMIZERS)}")
    return Optimization(OPTIMIZERS[name](list(parameters)), rate)
