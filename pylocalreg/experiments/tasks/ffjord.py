"""Continuous normalizing flows: FFJORD (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019)."""

import dataclasses
import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.data.small_digits import LEVELS
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, outcome, solve_options


class Gated(torch.nn.Module):
    """FFJORD's layer, (W x + b) sigmoid(g t + h) + c t, and its derivative along directions of x."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(inputs, outputs)
        self.gate = torch.nn.Linear(1, outputs)
        self.shift = torch.nn.Linear(1, outputs, bias=False)

    def forward(
        self, t: torch.Tensor, x: torch.Tensor, along: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        time = t.reshape(1)
        gate = self.gate(time).sigmoid()
        return self.linear(x) * gate + self.shift(time), F.linear(along, self.linear.weight) * gate


class Flow(torch.nn.Module):
    """Dynamics of points z and, behind them, the logarithm of how much volume grows: its rate is tr(df/dz).

    The trace is the sum over directions v of v^T df/dz v: over the axes exactly, over one normal draw by
    Hutchinson's estimate. The derivatives are written out, a matrix product more a layer, so that neither
    adjoints nor regularizers have to differentiate through automatic differentiation.
    """

    def __init__(self, features: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [features, *[hidden] * layers, features]
        self.layers = torch.nn.ModuleList(Gated(inputs, outputs) for inputs, outputs in pairwise(widths))

    def forward(self, t: torch.Tensor, u: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """``u`` is ``(batch, features + 1)``; ``directions`` ``(directions, batch or 1, features)``."""
        x, along = u[:, :-1], directions
        for i, layer in enumerate(self.layers):
            if i > 0:
                x = x.tanh()
                along = along * (1 - x.square())
            x, along = layer(t, x, along)
        trace = (directions * along).sum((0, 2))
        return torch.cat([x, trace[:, None]], dim=1)


class NormalizingFlow(Experiment):
    """A flow from the data, at the start of the span, to a normal distribution, at its end. The loss is the
    mean negative log likelihood; `RNODE` regularizes the points' motion alone, as its paper does, all others
    what is solved.
    """

    def __init__(
        self,
        config: settings.Config,
        features: int,
        hidden: int,
        layers: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, generator)
        options = solve_options(config, generator)
        if isinstance(options["regularizer"], plr.RNODE):
            options["regularizer"] = dataclasses.replace(options["regularizer"], features=features)
        self.node = plr.NeuralODE(Flow(features, hidden, layers), adjoint=config.solver.adjoint, **options)

    def flow(self, x: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, plr.Solution]:
        """Negative log likelihoods in nats, ``(batch,)``, of points ``(batch, features)``."""
        solution = self.node(F.pad(x, (0, 1)), inputs=(directions,))
        z, growth = solution.u[:, :-1], solution.u[:, -1]
        normal = (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) / 2
        return normal - growth, solution


class Ffjord(NormalizingFlow):
    """In two dimensions, with the exact trace. A batch is points ``(batch, 2)``."""

    metric: ClassVar[Metric] = "nll"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        task = config.task
        assert isinstance(task, settings.Ffjord)
        super().__init__(config, 2, task.hidden, task.layers, generator)

    def forward(self, *batch: torch.Tensor) -> Outcome:
        (points,) = batch
        axes = torch.eye(2, dtype=self.dtype, device=points.device)[:, None]
        nll, solution = self.flow(points.to(self.dtype), axes)
        return outcome(nll.mean(), nll.detach().sum(), solution)


class FfjordDigits(NormalizingFlow):
    """Over images, with Hutchinson's estimate, one draw a solve. A batch is bytes ``(batch, 64)``.

    Pixels are dequantized by uniform noise (Theis, van den Oord, Bethge 2016), drawn anew for every batch, in
    evaluation too: the score is a bound of the pixels' own likelihood.
    """

    metric: ClassVar[Metric] = "bpd"

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        task = config.task
        assert isinstance(task, settings.FfjordDigits)
        (images,) = data.train
        super().__init__(config, images.shape[1], task.hidden, task.layers, generator)
        self.margin = task.margin

    def forward(self, *batch: torch.Tensor) -> Outcome:
        (images,) = batch
        noise = torch.rand(images.shape, generator=self.generator, dtype=self.dtype).to(images.device)
        x, growth = to_logits((images + noise) / LEVELS, self.margin)
        eps = torch.randn((1, *images.shape), generator=self.generator, dtype=self.dtype)
        nll, solution = self.flow(x, eps.to(images.device))
        bits = ((nll - growth) / images.shape[1] + math.log(LEVELS)) / math.log(2)
        return outcome(bits.mean(), bits.detach().sum(), solution)


def to_logits(x: torch.Tensor, margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit of margin + (1 - 2 margin) x for ``x`` in [0, 1], shape ``(batch, features)``, and the
    logarithm of how much volume grows, ``(batch,)`` (Dinh, Sohl-Dickstein, Bengio 2017, section 4.1).
    """
    inside = margin + (1 - 2 * margin) * x
    growth = math.log(1 - 2 * margin) - inside.log() - (1 - inside).log()
    return inside.logit(), growth.sum(1)
