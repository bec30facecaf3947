"""MNIST by a neural ODE over the flattened image (Pal, Edelman, Rackauckas 2023, section 4.1)."""

from typing import ClassVar

import torch

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, classified, solve_options

PIXELS, CLASSES = 784, 10


class MnistNode(Experiment):
    """One hidden layer that sees the time, then a linear classifier. A batch is bytes ``(batch, 784)`` and
    labels ``(batch,)``.
    """

    metric: ClassVar[Metric] = "accuracy"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.MnistNode)
        self.node = plr.NeuralODE(
            plr.TimeDependent(plr.Dense(PIXELS, task.hidden, "tanh"), plr.Dense(task.hidden, PIXELS)),
            adjoint=config.solver.adjoint,
            **solve_options(config, generator),
        )
        self.head = torch.nn.Linear(PIXELS, CLASSES)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        images, labels = batch
        solution = self.node(images.to(self.head.weight.dtype) / 255)
        return classified(self.head(solution.u), labels, solution)
