"""The seam between an experiment and its training loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from pylocalreg.experiments.metrics import Metric
from pylocalreg.neural_ode import NeuralODE

Samples = tuple[torch.Tensor, ...]
"""Samples in the first dimension of every tensor, the same number in all."""


@dataclass(frozen=True)
class DataSet:
    """As its files hold it. ``name`` says which data they are, and what to know of them: a stand-in, say."""

    train: Samples
    test: Samples
    name: str


@dataclass(frozen=True)
class Data:
    """What a run takes: it trains on ``train``, is followed and chosen by ``validation``, and reads ``test``
    once, at its end.
    """

    train: Samples
    validation: Samples
    test: Samples
    name: str


@dataclass(frozen=True)
class Outcome:
    """What one batch gave.

    Attributes:
        loss: the mean over the batch, without the regularizer. Differentiable.
        regularization: the regularizer's value without its coefficient; 0 where there is none, and in
            evaluation mode. Differentiable.
        score: the sum over the batch that the metric is the mean of over the samples: correct predictions,
            the samples' mean squared errors or their negative log likelihoods.
        nfe: calls of the dynamics (an SDE's drift) in the forward pass, the regularizer's included.
        nfe_regularizer: those made for the regularizer alone.
    """

    loss: torch.Tensor
    regularization: torch.Tensor
    score: torch.Tensor
    nfe: int
    nfe_regularizer: int


class Task(torch.nn.Module, ABC):
    """An experiment's model with its loss: a batch in, an `Outcome` out.

    In training mode it regularizes and draws; in evaluation mode it does neither, but for an SDE's paths and
    the noise that a loss is defined by: a flow's over images, flow matching's.
    """

    metric: ClassVar[Metric]

    @property
    def neural_odes(self) -> list[NeuralODE]:
        """Those among its modules."""
        return [module for module in self.modules() if isinstance(module, NeuralODE)]

    @abstractmethod
    def forward(self, *batch: torch.Tensor) -> Outcome:
        """``batch`` are rows of one of the parts of a `Data`."""

    @abstractmethod
    def weight(self, step: int) -> float:
        """The regularizer's coefficient at a training step, counted from 0; 0 where it adds nothing."""

    @abstractmethod
    def generators(self) -> dict[str, torch.Generator]:
        """Every generator the task draws from; their states belong into a checkpoint."""
