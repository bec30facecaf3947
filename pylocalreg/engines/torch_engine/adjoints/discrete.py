"""The exact adjoint of the steps taken: each accepted step is taken again and reversed, last one first."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adjoints.recall import Recall
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.one_sided import on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


def discrete(
    problem: Problem,
    trajectory: Trajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    steps: Sequence[StepCotangent],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients by u0 and the parameters, step sizes held constant.

    Memory is one state a step, or a checkpoint; the graph is never larger than one step's. An estimate
    shares the stages of its step.
    """
    f = RightHandSide.of(problem)
    replay = METHODS[problem.solver].replay(f, problem, trajectory)
    recall = Recall(f, problem, trajectory, stages=False)
    pending, estimates = list(cotangents), {step.index: step for step in steps}
    adjoint: torch.Tensor | None = None  # zero: the steps after the last cotangent have no gradient
    for i in reversed(range(trajectory.naccept)):
        t, dt = trajectory.t[i], trajectory.dt[i]
        t_next = trajectory.t[i + 1] if i + 1 < trajectory.naccept else problem.tspan[1]
        inside: list[tuple[float, torch.Tensor]] = []
        while pending and (pending[-1][0] - t) * dt > 0:
            time, cotangent = pending.pop()
            if time == t_next:
                adjoint = cotangent.clone() if adjoint is None else adjoint.add_(cotangent)
            else:
                inside.append((time, cotangent))
        estimate = estimates.get(i)
        if adjoint is not None or inside or estimate is not None:
            with on_side(f.f, t, dt):
                adjoint = replay.reverse(i, recall.state(i), adjoint, inside, estimate)
    if adjoint is None:
        adjoint = torch.zeros_like(trajectory.u[trajectory.naccept])
    for _, cotangent in pending:  # at the start of the span
        adjoint.add_(cotangent)
    return adjoint, replay.grad_params.tensors
