"""CIFAR10 by a convolutional neural ODE, as in Poli et al. (2020) and the paper's code."""

from typing import ClassVar

import torch

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, classified, solve_options

SIZE, CLASSES = 32, 10
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Normalize(torch.nn.Module):
    """Bytes ``(batch, 3, 32, 32)`` by the mean and deviation of CIFAR10's channels."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, numbers in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(numbers).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.deviation


class Cifar10Conv(Experiment):
    """A convolution gives the image further channels; dynamics of three convolutions that see the time, two
    of them with batch normalization; one channel of features, a linear classifier. A batch is bytes
    ``(batch, 3, 32, 32)`` and labels ``(batch,)``.
    """

    metric: ClassVar[Metric] = "accuracy"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.Cifar10Conv)
        channels, hidden = task.channels, task.hidden
        self.normalize = Normalize()
        self.augment = torch.nn.Conv2d(3, channels - 3, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.node = plr.NeuralODE(
            plr.TimeDependent(
                plr.Conv(channels, hidden),
                plr.BatchNorm(hidden, "gelu"),
                plr.Conv(hidden, hidden),
                plr.BatchNorm(hidden, "gelu"),
                plr.Conv(hidden, channels),
            ),
            adjoint=config.solver.adjoint,
            **solve_options(config, generator),
        )
        self.features = torch.nn.Conv2d(channels, 1, 3, padding=1)
        self.head = torch.nn.Linear(SIZE * SIZE, CLASSES)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        images, labels = batch
        x = self.normalize(images)
        solution = self.node(self.norm(torch.cat([x, self.augment(x)], dim=1)))
        features = torch.nn.functional.gelu(self.features(solution.u), approximate="tanh")
        return classified(self.head(features.flatten(1)), labels, solution)
