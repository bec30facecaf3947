"""The error estimate of one step and its gradient by the parameters, in one compiled call."""

import torch

from pylocalreg.engines.base import Gradient, Problem
from pylocalreg.engines.torch_engine.explicit_rk.compiled import (
    Function,
    equal_but_for_rounding,
    tensor_step,
)
from pylocalreg.engines.torch_engine.explicit_rk.computed import Gradients
from pylocalreg.engines.torch_engine.explicit_rk.step import differentiable_step
from pylocalreg.engines.torch_engine.functional import Tensors
from pylocalreg.engines.torch_engine.kept_buffers import kept_buffers
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


def compiled_estimate(
    f: RightHandSide,
    tableau: Tableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    problem: Problem,
    gradient: Gradient,
) -> tuple[torch.Tensor, Gradients] | None:
    """R and its gradient by the parameters; None where they are not compiled."""
    steps = problem.compiled
    step = None if steps is None else tensor_step(steps, f, tableau, problem)
    if steps is None or step is None:
        return None
    frozen = gradient == "frozen"
    function = Function(steps, step, "estimate", frozen, params=step.f.own, once=True)
    numbers, zeros = step.numbers_of(t, dt, problem, f.f, u.dtype), torch.zeros_like(u)

    def used() -> frozenset[int] | None:
        """Which parameters the step depends on; None where a substitution of parameters misses some. An
        estimate's own gradient is known to few digits: this is the new state's.
        """
        with kept_buffers(step.f.module):
            probed = function(numbers, u, u.new_zeros(()), torch.ones_like(u))
            assert probed is not None
            right = _of_solution(f, tableau, t, u, dt, frozen, step.f.own)
        if not all(x is None for x in right) and not equal_but_for_rounding(probed[1:], right):
            function.give_up("what it gives is not the gradient of a plain step")
            return None
        return frozenset(i for i, gradient in enumerate(right) if gradient is not None)

    given = function(numbers, u, u.new_full((), abs(dt)), zeros)
    if given is None:
        return None
    EEst, *by_params = (x.clone() for x in given) if function.recorded is not None else given
    wanted = steps.get((*function.key, "used", step.f.names), used)
    if wanted is None:
        return None
    f.nfe += tableau.stages
    return EEst * abs(dt), [x if i in wanted else None for i, x in enumerate(by_params)]


def _of_solution(
    f: RightHandSide,
    tableau: Tableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    frozen: bool,
    params: Tensors,
) -> Gradients:
    """The gradient of the sum of the new state's elements, by autograd."""
    f = RightHandSide(f.f)  # whose calls are not counted
    with torch.enable_grad():
        k1 = f(t, u)
        _, u_new = differentiable_step(f, tableau, t, u, dt, k1.detach() if frozen else k1)
        if not u_new.requires_grad:
            return [None for _ in params]
        return torch.autograd.grad(u_new, params, torch.ones_like(u), allow_unused=True)
