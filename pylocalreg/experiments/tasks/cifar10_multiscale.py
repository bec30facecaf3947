"""CIFAR10 by a multiscale neural ODE with input injection: a small multiscale DEQ as an ODE.

Bai, Koltun, Kolter (2020) look for the fixed point z = g(z, x) of feature maps z of several resolutions; Pal,
Edelman, Rackauckas (2022) solve dz/dt = g(z, x) - z in its place.
"""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.nn import Conv2d, GroupNorm, Module, ModuleList, Sequential

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, classified, solve_options
from pylocalreg.experiments.tasks.cifar10_conv import CLASSES, Normalize


class Block(Module):
    """A residual block on one scale; the injected input, if any, is added before the second normalization."""

    def __init__(self, channels: int, expansion: int, groups: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.widen = Sequential(
            Conv2d(channels, wide, 3, padding=1, bias=False), GroupNorm(groups, wide), torch.nn.ReLU()
        )
        self.narrow = Conv2d(wide, channels, 3, padding=1, bias=False)
        self.norm = GroupNorm(groups, channels)
        self.last = GroupNorm(groups, channels)

    def forward(self, z: torch.Tensor, injected: torch.Tensor | None) -> torch.Tensor:
        y = self.narrow(self.widen(z))
        out: torch.Tensor = self.last(F.relu(self.norm(y if injected is None else y + injected) + z))
        return out


def _down(channels: list[int], groups: int) -> Sequential:
    """To a coarser scale: a strided convolution for every halving in between."""
    layers: list[Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [
            Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            GroupNorm(groups, outputs),
            torch.nn.ReLU(),
        ]
    return Sequential(*layers[:-1])


def _up(inputs: int, outputs: int, factor: int, groups: int) -> Sequential:
    """To a finer scale."""
    return Sequential(
        Conv2d(inputs, outputs, 1, bias=False),
        GroupNorm(groups, outputs),
        torch.nn.Upsample(scale_factor=factor),
    )


class Multiscale(Module):
    """dz/dt = g(z, x) - z, where z is a tuple of scales: a block on each, the finest one with x injected,
    then the sum of all of them on each scale.
    """

    def __init__(self, channels: tuple[int, ...], expansion: int, groups: int) -> None:
        super().__init__()
        self.blocks = ModuleList(Block(width, expansion, groups) for width in channels)
        self.fuse = ModuleList()
        self.post = ModuleList()
        for to, width in enumerate(channels):
            paths = ModuleList()
            for of, other in enumerate(channels):
                if of < to:
                    paths.append(_down(list(channels[of : to + 1]), groups))
                elif of > to:
                    paths.append(_up(other, width, 2 ** (of - to), groups))
                else:
                    paths.append(torch.nn.Identity())
            self.fuse.append(paths)
            self.post.append(Sequential(torch.nn.ReLU(), Conv2d(width, width, 1), GroupNorm(groups, width)))

    def forward(
        self, t: torch.Tensor, z: tuple[torch.Tensor, ...], x: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ys = [
            block(part, x if i == 0 else None)
            for i, (block, part) in enumerate(zip(self.blocks, z, strict=True))
        ]
        out = []
        for part, paths, post in zip(z, self.fuse, self.post, strict=True):
            assert isinstance(paths, ModuleList)
            total = torch.stack([path(y) for path, y in zip(paths, ys, strict=True)]).sum(0)
            out.append(post(total) - part)
        return tuple(out)


class Cifar10Multiscale(Experiment):
    """Features of the image are injected, and each scale starts from a coarser view of them; the head takes
    twice as many features of each scale, their means, and a linear layer. A batch is bytes
    ``(batch, 3, 32, 32)`` and labels ``(batch,)``.

    A multiscale DEQ starts its search at 0, where the normalization of nothing makes an ODE stiff.
    """

    metric: ClassVar[Metric] = "accuracy"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.Cifar10Multiscale)
        channels = list(task.channels)
        self.normalize = Normalize()
        self.inject = Sequential(
            Conv2d(3, channels[0], 3, padding=1, bias=False), torch.nn.BatchNorm2d(channels[0])
        )
        self.start = ModuleList(_down(channels[: scale + 1], task.groups) for scale in range(len(channels)))
        self.node = plr.NeuralODE(
            Multiscale(task.channels, task.expansion, task.groups),
            adjoint=config.solver.adjoint,
            **solve_options(config, generator),
        )
        self.features = ModuleList(
            Sequential(Conv2d(width, 2 * width, 3, padding=1), torch.nn.ReLU()) for width in channels
        )
        self.head = torch.nn.Linear(2 * sum(channels), CLASSES)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        images, labels = batch
        x = self.inject(self.normalize(images))
        solution = self.node(tuple(start(x) for start in self.start), inputs=(x,))
        means = [
            features(part).mean((2, 3)) for features, part in zip(self.features, solution.u, strict=True)
        ]
        return classified(self.head(torch.cat(means, dim=1)), labels, solution)
