"""A tiny task, to train in tests: here, in processes that are killed, and under torchrun.

``python -m tests.toy FOLDER --steps N`` trains it and prints every step.
"""

import argparse
import sys
from pathlib import Path
from typing import ClassVar

import torch

import pylocalreg as plr
from pylocalreg.errors import StoppedError
from pylocalreg.experiments import generators
from pylocalreg.experiments.distributed import Team
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.optimizers import Optimization
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.task import Data, Outcome, Task
from pylocalreg.experiments.train import Plan, Progress, Report, train
from tests.conftest import Net, normal

OPTIMIZERS = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax, "sgd": torch.optim.SGD}

ALONE = Team(0, 1, torch.device("cpu"))


class Toy(Task):
    """A neural ODE of three numbers and two classes; with ``layers`` that have buffers and draw."""

    metric: ClassVar[Metric] = "accuracy"

    def __init__(
        self, generator: torch.Generator, regularizer: plr.Regularizer | None, *, layers: bool
    ) -> None:
        super().__init__()
        self.generator = generator
        self.norm = torch.nn.BatchNorm1d(3, dtype=torch.float64) if layers else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(0.1 if layers else 0.0)
        self.node = plr.NeuralODE(Net(3, seed=1), engine="torch", regularizer=regularizer)
        self.head = torch.nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        x, y = batch
        solution = self.node(self.norm(x))
        logits = self.head(self.dropout(solution.u))
        regularization = solution.regularization
        return Outcome(
            torch.nn.functional.cross_entropy(logits, y),
            logits.new_zeros(()) if regularization is None else regularization,
            (logits.argmax(1) == y).sum(),
            solution.stats.nfe,
            solution.stats.nfe_regularizer,
        )

    def weight(self, step: int) -> float:
        return 1.0

    def generators(self) -> dict[str, torch.Generator]:
        return {"regularizer": self.generator}


def data() -> Data:
    """64, 16 and 24 points, of two classes by a plane."""
    x = normal(104, 3)
    y = (x.sum(1) > 0).long()
    return Data((x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:]), "toy")


def toy(seed: int = 0, rank: int = 0, *, regularize: bool = True, layers: bool = True) -> Toy:
    torch.manual_seed(seed)
    generator = generators.seeded(seed, rank)
    regularizer = plr.LocalRegularizer("unbiased", generator=generator) if regularize else None
    return Toy(generator, regularizer, layers=layers)


def run(
    folder: Path,
    steps: int = 6,
    *,
    task: Toy | None = None,
    seed: int = 0,
    team: Team = ALONE,
    optimizer: str = "adam",
    learning_rate: float = 0.01,
    evaluate_every: int = 4,
    save_every: int = 1,
    report: Report | None = None,
    tensorboard: bool = False,
    restart: bool = False,
) -> Record:
    task = task or toy(seed, team.rank)
    settings = {"steps": steps, "seed": seed}
    plan = Plan("toy", "local_unbiased", seed, steps, 16, 16, evaluate_every, save_every, settings)
    rate = plr.schedules.Cosine(learning_rate, learning_rate / 2, steps)
    optimization = Optimization(OPTIMIZERS[optimizer](task.parameters(), lr=learning_rate), rate)
    return train(
        task,
        data(),
        optimization,
        plan,
        folder,
        team,
        report=report,
        tensorboard=tensorboard,
        restart=restart,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()

    def announce(progress: Progress) -> None:
        print(progress.step, flush=True)

    try:
        run(given.folder, given.steps, report=announce)
    except StoppedError as error:
        sys.exit(128 + error.signal)
