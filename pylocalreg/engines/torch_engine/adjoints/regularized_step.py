"""The pullback of one recorded step's R = EEst * |dt|."""

import torch

from pylocalreg.engines.base import Problem, StepCotangent
from pylocalreg.engines.torch_engine.explicit_rk import GradientSum, StepReplay


def pull_back_error(
    problem: Problem,
    replay: StepReplay,
    step: StepCotangent,
    grad_u: torch.Tensor,
    grad_params: GradientSum,
) -> None:
    """Add the gradients of ``step.cotangent * R``; those by the state only where the step asks for them."""
    by_stage = replay.no_cotangents()
    by_u = replay.add_error(by_stage, step.cotangent, problem.abstol, problem.reltol)
    into = grad_u.add_(by_u) if step.through_state else None
    replay.pull_back(by_stage, into, grad_params, frozen_first_stage=step.gradient == "frozen")
