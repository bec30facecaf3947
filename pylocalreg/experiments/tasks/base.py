"""What all experiments share: how a config's solver and method become options, a solve an outcome."""

from typing import Any

import torch
import torch.nn.functional as F

import pylocalreg as plr
from pylocalreg.experiments import methods
from pylocalreg.experiments.config import Config
from pylocalreg.experiments.task import Outcome, Task


class Experiment(Task):
    """A task of a config, all its draws from one generator."""

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        self.coefficient = methods.coefficient(config)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def weight(self, step: int) -> float:
        return self.coefficient(step)

    def generators(self) -> dict[str, torch.Generator]:
        return {"task": self.generator}


def solve_options(config: Config, generator: torch.Generator) -> dict[str, Any]:
    """The options that `NeuralODE` and `NeuralSDE` have in common."""
    return {
        "solver": config.solver.name,
        "abstol": config.solver.abstol,
        "reltol": config.solver.reltol,
        "regularizer": methods.regularizer(config, generator),
        "engine": config.engine,
    }


def outcome(loss: torch.Tensor, score: torch.Tensor, solution: plr.Solution) -> Outcome:
    regularization = solution.regularization
    return Outcome(
        loss=loss,
        regularization=loss.new_zeros(()) if regularization is None else regularization,
        score=score,
        nfe=solution.stats.nfe,
        nfe_regularizer=solution.stats.nfe_regularizer,
    )


def classified(logits: torch.Tensor, labels: torch.Tensor, solution: plr.Solution) -> Outcome:
    """Cross entropy, and how many of the ``labels``, shape ``(batch,)``, the ``logits`` get right."""
    return outcome(F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum(), solution)
