"""The accepted steps taken again in one autograd graph, for derivatives beyond the first."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepAsked, Trajectory
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


def retaken(
    problem: Problem,
    trajectory: Trajectory,
    u0: torch.Tensor,
    times: Sequence[float],
    steps: Sequence[StepAsked],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The states at ``times`` and the estimates of ``steps``, as functions of ``u0`` and ``problem.params``.

    Their first derivatives are those of the discrete adjoint; they have derivatives of every order that the
    dynamics have. What is held constant is so in every order: the steps' t and dt, the noise, and what
    ``steps`` hold. What depends on neither ``u0`` nor a parameter has no graph. Memory is the graph of all
    steps up to the last one asked for.

    Args:
        trajectory: of ``problem`` from ``u0``; of a method that is not one-step, with all its states kept.
        times: ordered along the span, repeats allowed; the start of the span gives ``u0`` itself.
        steps: in any order.

    Raises:
        JacobianError: of a stiff solver, the dynamics can not be differentiated by ``torch.func``.
    """
    retake = METHODS[problem.solver].retake(RightHandSide.of(problem), problem, trajectory)
    start, end = problem.tspan
    states = [u0 for time in times if time == start]
    estimates: dict[StepAsked, torch.Tensor] = {}
    last = max((step.index for step in steps), default=-1)
    u = u0
    for i, dt in enumerate(trajectory.dt):
        if i > last and len(states) == len(times):
            break
        t_next = trajectory.t[i + 1] if i + 1 < trajectory.naccept else end
        u = retake.take(i, u)
        while len(states) < len(times) and (times[len(states)] - t_next) * dt <= 0:
            time = times[len(states)]
            states.append(u if time == t_next else retake.inside(time))
        for step in steps:
            if step.index == i:
                estimates[step] = retake.estimate(step)
    return states, [estimates[step] for step in steps]
