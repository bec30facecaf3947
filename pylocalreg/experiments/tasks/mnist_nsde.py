"""MNIST by a neural SDE over 32 features (Pal, Edelman, Rackauckas 2023, section 4.2)."""

from typing import ClassVar

import torch

import pylocalreg as plr
from pylocalreg.errors import OptionError
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, classified, solve_options
from pylocalreg.experiments.tasks.mnist_node import CLASSES, PIXELS


class MnistNsde(Experiment):
    """A linear layer down, a drift with one hidden layer, a linear diffusion, a linear classifier.

    Training takes one path; the test's logits are the mean over several. A batch is bytes ``(batch, 784)``
    and labels ``(batch,)``.
    """

    metric: ClassVar[Metric] = "accuracy"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.MnistNsde)
        if config.solver.adjoint != "discrete":
            raise OptionError(
                f"adjoint = {config.solver.adjoint!r}: a neural SDE has the discrete adjoint alone"
            )
        self.embed = torch.nn.Linear(PIXELS, task.width)
        self.node = plr.NeuralSDE(
            plr.Chain(plr.Dense(task.width, task.hidden, "tanh"), plr.Dense(task.hidden, task.width)),
            plr.Chain(plr.Dense(task.width, task.width)),
            generator=generator,
            **solve_options(config, generator),
        )
        self.head = torch.nn.Linear(task.width, CLASSES)
        self.trajectories = task.trajectories

    def forward(self, *batch: torch.Tensor) -> Outcome:
        images, labels = batch
        self.node.trajectories = None if self.training else self.trajectories
        solution = self.node(self.embed(images.to(self.head.weight.dtype) / 255))
        logits: torch.Tensor = self.head(solution.u)
        return classified(logits if self.training else logits.mean(0), labels, solution)
