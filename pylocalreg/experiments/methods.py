"""The methods an experiment compares: what each adds to the solve, and its coefficient over training."""

from collections.abc import Callable

import torch

import pylocalreg as plr
from pylocalreg.experiments.config import Config, Weighted


def regularizer(config: Config, generator: torch.Generator) -> plr.Regularizer | None:
    """That of ``config.method``, its draws from ``generator``; None for vanilla."""
    methods = config.methods
    match config.method:
        case "local_unbiased" if methods.local_unbiased:
            samples = methods.local_unbiased.samples
            return plr.LocalRegularizer("unbiased", samples=samples, generator=generator)
        case "local_biased" if methods.local_biased:
            samples = methods.local_biased.samples
            return plr.LocalRegularizer("biased", samples=samples, generator=generator)
        case "paper" if methods.paper:
            return plr.LocalRegularizer.paper(methods.paper.sampling, generator)
        case "global_error":
            return plr.GlobalRegularizer("error")
        case "global_stiffness":
            return plr.GlobalRegularizer("stiffness")
        case "steer" if methods.steer:
            return plr.STEER(methods.steer.spread, generator)
        case "taynode" if methods.taynode:
            return plr.TayNODE(methods.taynode.order)
    return None


def coefficient(config: Config) -> Callable[[int], float]:
    """The regularizer's coefficient by training step; 0 where the method adds no term to the loss."""
    settings = getattr(config.methods, config.method, None)
    if not isinstance(settings, Weighted):
        return plr.schedules.Constant(0.0)
    ends = settings.coefficient
    return plr.schedules.Exponential(ends.start, ends.end, config.train.steps)
