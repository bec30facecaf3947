"""PhysioNet 2012 by a latent ODE (Rubanova, Chen, Duvenaud 2019), interpolation."""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch.nn import Linear, Sequential, Tanh

import pylocalreg as plr
from pylocalreg.experiments import config as settings
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks.base import Experiment, outcome, solve_options

KL_WAIT, KL_RATE = 100, 0.99
"""The KL term's weight is 1 - KL_RATE^(n - KL_WAIT) at training step n, and 0 before."""


class RecognitionCell(torch.nn.Module):
    """A GRU over a state of mean and deviation, its gates with a hidden layer each (Rubanova et al. 2019,
    appendix). A step without any observation leaves the state as it is.

    The new mean is mixed with the old mean, and the new deviation with the old deviation; the paper's code
    takes the new deviation for both.
    """

    def __init__(self, inputs: int, state: int, hidden: int) -> None:
        super().__init__()

        def network(outputs: int) -> Sequential:
            return Sequential(Linear(2 * state + inputs, hidden), Tanh(), Linear(hidden, outputs))

        self.update, self.reset, self.new = network(state), network(state), network(2 * state)

    def forward(self, state: torch.Tensor, x: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Shapes ``(batch, 2 state)``, ``(batch, inputs)``, and ``(batch, 1)`` of bools."""
        both = torch.cat([state, x], dim=1)
        update = self.update(both).sigmoid().repeat(1, 2)
        reset = self.reset(both).sigmoid().repeat(1, 2)
        new = self.new(torch.cat([state * reset, x], dim=1)).tanh()
        return torch.where(observed, torch.lerp(new, state, update), state)


class Physionet(Experiment):
    """The recognition GRU reads a record from its end to its start and gives the latent state's distribution
    there; a neural ODE takes a sample, or in evaluation the mean, to all times of observation; a linear layer
    gives the values there.

    A batch is values, mask and times, as `data.physionet.load` gives them. The loss is the negative evidence
    lower bound, a record's likelihood per observed value; the score is the sum of the records' mean squared
    errors of the observed values.
    """

    metric: ClassVar[Metric] = "mse"
    batches: torch.Tensor

    def __init__(self, config: settings.Config, data: Data, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        task = config.task
        assert isinstance(task, settings.Physionet)
        values, _, times = data.train
        parameters = values.shape[-1]
        self.noise = task.noise
        self.recognition = task.recognition
        self.encoder = RecognitionCell(2 * parameters + 1, task.recognition, task.gru_hidden)
        self.latent = Sequential(
            Linear(2 * task.recognition, task.gru_hidden), Tanh(), Linear(task.gru_hidden, 2 * task.latent)
        )
        widths = [task.latent, *[task.hidden] * task.layers]
        self.node = plr.NeuralODE(
            plr.Chain(
                *(plr.Dense(inputs, outputs, "tanh") for inputs, outputs in pairwise(widths)),
                plr.Dense(task.hidden, task.latent),
            ),
            saveat=times[0].tolist(),
            adjoint=config.solver.adjoint,
            **solve_options(config, generator),
        )
        self.decoder = Linear(task.latent, parameters)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, *batch: torch.Tensor) -> Outcome:
        values, mask, times = batch
        dtype = self.decoder.weight.dtype
        values, times = values.to(dtype), times.to(dtype)
        mean, logvar = self.encode(values, mask, times).chunk(2, dim=1)
        z0 = mean
        if self.training:
            noise = torch.randn(mean.shape, generator=self.generator, dtype=dtype).to(mean.device)
            z0 = mean + noise * torch.exp(logvar / 2)
        solution = self.node(z0)
        squares = mask * (self.decoder(solution.u).transpose(0, 1) - values).square()
        errors = squares.sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        divergence = (logvar.exp() + mean.square() - 1 - logvar).mean() / 2
        likelihood = -errors.mean() / (2 * self.noise**2) - math.log(self.noise * math.sqrt(2 * math.pi))
        loss = self._kl_weight() * divergence - likelihood
        if self.training:
            self.batches += 1
        return outcome(loss, errors.detach().sum(), solution)

    def encode(self, values: torch.Tensor, mask: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Mean and logarithm of the variance of the latent state at the start, ``(batch, 2 latent)``."""
        gaps = torch.diff(times, dim=1, append=times[:, -1:])
        inputs = torch.cat([values, mask.to(values.dtype), gaps[:, :, None]], dim=2)
        observed = mask.any(2, keepdim=True)
        start = values.new_zeros(len(values), self.recognition)
        state = torch.cat([start, start + 1], dim=1)
        for step in reversed(range(inputs.shape[1])):
            state = self.encoder(state, inputs[:, step], observed[:, step])
        latent: torch.Tensor = self.latent(state)
        return latent

    def _kl_weight(self) -> torch.Tensor:
        """By the training batches seen so far, which a checkpoint keeps."""
        return 1 - torch.pow(KL_RATE, (self.batches - KL_WAIT).clamp(min=0))
