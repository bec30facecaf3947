"""`pylocalreg digits-sde`: a neural SDE on digits, trained without and with local regularization, by seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

import pylocalreg as plr
from pylocalreg.experiments import digits
from pylocalreg.regularizers import Sampling

WIDTH = 32
SAMPLINGS: tuple[Sampling, ...] = ("unbiased", "biased")


@dataclass(frozen=True)
class Config(digits.Config):
    """One training run; predictions are the mean over ``trajectories`` paths, training takes one."""

    hidden: int = 64
    tolerance: float = 0.14
    solver: str = "SOSRI2"
    trajectories: int = 10


class Classifier(torch.nn.Module):
    """64 pixels to 32 features by a linear layer, a neural SDE with a linear diffusion, a linear head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(64, WIDTH)
        self.node = plr.NeuralSDE(
            plr.TimeDependent(plr.Dense(WIDTH, config.hidden, "tanh"), plr.Dense(config.hidden, WIDTH)),
            plr.Chain(plr.Dense(WIDTH, WIDTH)),
            solver=config.solver,
            abstol=config.tolerance,
            reltol=config.tolerance,
            regularizer=config.regularizer,
            engine=config.engine,
        )
        self.head = torch.nn.Linear(WIDTH, 10)
        self.trajectories = config.trajectories

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, plr.Solution]:
        self.node.trajectories = None if self.training else self.trajectories
        solution = self.node(self.embed(x))
        logits: torch.Tensor = self.head(solution.u)
        return logits if self.training else logits.mean(0), solution


def configs(steps: int, seed: int, engine: str) -> list[Config]:
    """Vanilla, local unbiased, local biased; the coefficient falls."""
    vanilla = Config(steps=steps, seed=seed, engine=engine)
    coefficient = plr.schedules.Exponential(COEFFICIENT, COEFFICIENT_END, steps)
    return [vanilla] + [
        Config(
            name=f"local, {sampling}",
            regularizer=plr.LocalRegularizer(sampling),
            coefficient=coefficient,
            steps=steps,
            seed=seed,
            engine=engine,
        )
        for sampling in SAMPLINGS
    ]
