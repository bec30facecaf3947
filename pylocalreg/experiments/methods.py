"""The methods an experiment compares: what each adds to the solve, and its coefficient over training."""

from collections.abc import Callable

import torch

import pylocalreg as plr
from pylocalreg.experiments.config import Config, Local, Weighted
from pylocalreg.regularizers import Sampling


def regularizer(config: Config, generator: torch.Generator) -> plr.Regularizer | None:
    """That of ``config.method``, its draws from ``generator``; None for vanilla."""
    methods = config.methods
    match config.method:
        case "local_unbiased" if methods.local_unbiased:
            return _local("unbiased", methods.local_unbiased, generator)
        case "local_biased" if methods.local_biased:
            return _local("biased", methods.local_biased, generator)
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
        case "rnode" if methods.rnode:
            return plr.RNODE(methods.rnode.kinetic, methods.rnode.jacobian, generator)
    return None


def _local(sampling: Sampling, own: Local, generator: torch.Generator) -> plr.LocalRegularizer:
    return plr.LocalRegularizer(sampling, samples=own.samples, scale=own.scale, generator=generator)


def coefficient(config: Config) -> Callable[[int], float]:
    """The regularizer's coefficient by training step; 0 where the method adds no term to the loss."""
    settings = getattr(config.methods, config.method, None)
    if not isinstance(settings, Weighted | Local):
        return plr.schedules.Constant(0.0)
    ends = settings.coefficient
    return plr.schedules.Exponential(ends.start, ends.end, config.train.steps)
