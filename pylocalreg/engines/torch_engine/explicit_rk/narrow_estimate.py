"""The error estimate of one step of a chain that is narrower than its state, with its gradient."""

import torch

from pylocalreg.engines.base import Gradient, Problem
from pylocalreg.engines.torch_engine.explicit_rk.computed import Gradients
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import narrow_chain
from pylocalreg.engines.torch_engine.explicit_rk.narrow_gradients import NarrowGradients, Sum
from pylocalreg.engines.torch_engine.explicit_rk.narrow_step import NarrowStep
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


def narrow_estimate(
    f: RightHandSide,
    tableau: Tableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    problem: Problem,
    gradient: Gradient,
) -> tuple[torch.Tensor, Gradients] | None:
    """R and its gradient by the parameters; None where the dynamics are no such chain, or another gradient
    than the exact one is wanted.
    """
    if gradient != "exact":
        return None
    chain = narrow_chain(f, tableau, u, problem)
    if chain is None:
        return None
    step = NarrowStep.taken(chain, tableau, t, chain.rows(u), dt, tableau.stages)
    value, by_error, by_new, _ = step.estimate(problem, 1.0)
    gradients = NarrowGradients(chain, len(problem.params))
    sums = Sum.of(chain, tableau.btilde, by_error), Sum.of(chain, tableau.b, by_new)
    step.sweep(sums, gradients)
    f.nfe += tableau.stages
    return value, gradients.tensors
