"""Flow matching over images (Lipman, Chen, Ben-Hamu, Nickel, Le 2023): trained without a solve."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, outcome, solve_options
from pylocalreg.experiments.tasks.mnist_node import PIXELS

FREQUENCIES = 16
"""Of the time's embedding, each with a cosine and a sine."""


class Block(torch.nn.Module):
    """A residual block, h + W silu(norm(h) + V e), with the time's embedding e."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(hidden)
        self.inner = torch.nn.Linear(hidden, hidden)
        self.time = torch.nn.Linear(2 * FREQUENCIES, hidden)
        self.outer = torch.nn.Linear(hidden, hidden)

    def forward(self, h: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self.inner(self.norm(h)) + self.time(embedded))
        return h + self.outer(inner)  # type: ignore[no-any-return]


class Velocity(torch.nn.Module):
    """v(t, x) of images ``(batch, 784)``; ``t`` is a scalar, or one for each image, ``(batch, 1)``.

    Each pixel is also scaled by a factor of the time's own: the velocity has the noise of all pixels in it,
    which does not pass through hidden layers that are narrower.
    """

    frequencies: torch.Tensor

    def __init__(self, hidden: int, blocks: int) -> None:
        super().__init__()
        # at most four turns over the span: what turns faster asks the solver for shorter steps
        frequencies = 8 * math.pi * torch.logspace(-1.5, 0, FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = torch.nn.Linear(PIXELS, hidden)
        self.blocks = torch.nn.ModuleList(Block(hidden) for _ in range(blocks))
        self.last = torch.nn.Linear(hidden, PIXELS)
        self.scale = torch.nn.Linear(2 * FREQUENCIES, PIXELS)

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        turns = t.reshape(-1, 1) * self.frequencies
        embedded = torch.cat([turns.cos(), turns.sin()], dim=1)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedded)
        velocity: torch.Tensor = self.last(F.silu(h)) + self.scale(embedded) * x
        return velocity


class FlowMatching(Experiment):
    """The optimal-transport path x_t = (1 - (1 - s) t) x_0 + t x_1 from normal noise x_0 to images x_1, its
    velocity x_1 - (1 - s) x_0 by regression (Lipman et al. 2023, equations 20 to 23): the loss, and the
    score, is the mean squared error. A batch is bytes ``(batch, 784)``, for images in [-1, 1], and labels.

    Training takes no solve, so that there is nothing to regularize in it. A method fine-tunes: in the last
    ``fine_tune`` training steps, which the buffer ``batches`` counts, the loss also has the regularizer of
    one solve from fresh noise, of ``solved`` samples. An evaluation solves for as many, and its NFE is that
    solve's.
    """

    metric: ClassVar[Metric] = "mse"
    batches: torch.Tensor

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.FlowMatching)
        self.smallest, self.solved = task.smallest, task.solved
        self.tuned_from = config.train.steps - task.fine_tune
        self.node = plr.NeuralODE(
            Velocity(task.hidden, task.blocks),
            adjoint=config.solver.adjoint,
            **solve_options(config, generator),
        )
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def noise(self, *shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=self.generator, dtype=self.dtype)
        return drawn.to(self.batches.device)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        images, _ = batch
        errors = self.errors(2 * images.to(self.dtype) / 255 - 1)
        loss, score = errors.mean(), errors.detach().sum()
        tuned = self.node.regularizer is not None and int(self.batches) >= self.tuned_from
        if self.training:
            self.batches += 1
            if not tuned:
                return Outcome(loss, loss.new_zeros(()), score, nfe=1, nfe_regularizer=0)
        solution = self.node(self.noise(self.solved, PIXELS))
        if not self.training:
            return outcome(loss, score, solution)
        nfe = solution.stats.nfe
        return Outcome(loss, solution.regularization, score, nfe=1 + nfe, nfe_regularizer=nfe)

    def errors(self, x1: torch.Tensor) -> torch.Tensor:
        """Each image's mean squared error at one time and with one noise, ``(batch,)``."""
        x0 = self.noise(*x1.shape)
        t = torch.rand((len(x1), 1), generator=self.generator, dtype=self.dtype).to(x1.device)
        velocity = x1 - (1 - self.smallest) * x0
        errors: torch.Tensor = self.node.dynamics(t, x0 + t * velocity) - velocity
        return errors.square().mean(1)
