"""The exact adjoint of the steps taken: each accepted step is taken again and reversed, last one first."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adjoints.regularized_step import pull_back_error
from pylocalreg.engines.torch_engine.explicit_rk import GradientSum, StepReplay
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS


def discrete(
    problem: Problem,
    trajectory: Trajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    regularized: StepCotangent | None,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients by u0 and the parameters, step sizes held constant; the trajectory keeps its states.

    Memory is one state a step; the graph is never larger than one step's. A regularized step shares the
    stages of its replay.
    """
    tableau = TABLEAUS[problem.solver]
    replay = StepReplay(RightHandSide(problem.f), problem.params, tableau, trajectory.u[0])
    grad_params = GradientSum(len(problem.params))
    pending = list(cotangents)
    adjoint = torch.zeros_like(trajectory.u[0])
    reached = False  # the adjoint is still zero: the steps after the last cotangent have no gradient
    for i in reversed(range(trajectory.naccept)):
        t, dt, u = trajectory.t[i], trajectory.dt[i], trajectory.u[i]
        t_next = trajectory.t[i + 1] if i + 1 < trajectory.naccept else float(problem.tspan[1])
        inside: list[tuple[float, torch.Tensor]] = []
        while pending and (pending[-1][0] - t) * dt > 0:
            time, cotangent = pending.pop()
            reached = True
            if time == t_next:
                adjoint.add_(cotangent)
            else:
                inside.append((time, cotangent))
        step = regularized if regularized is not None and regularized.index == i else None
        if not reached and step is None:
            continue

        stages = len(tableau.b)  # those that anything asked for depends on
        if step is not None:
            stages = tableau.stages
        if inside:
            stages = len(tableau.interpolant)
        replay.take(t, u, dt, stages)
        if reached:
            by_stage = replay.no_cotangents()
            replay.add_sum(by_stage, tableau.b, adjoint)
            for time, cotangent in inside:
                adjoint.add_(cotangent)
                replay.add_sum(by_stage, tableau.interpolant_weights((time - t) / dt), cotangent)
            replay.pull_back(by_stage, adjoint, grad_params, keep_graph=step is not None)
        if step is not None:
            pull_back_error(problem, replay, step, adjoint, grad_params)
            reached = reached or step.through_state
    for _, cotangent in pending:  # at the start of the span
        adjoint.add_(cotangent)
    return adjoint, grad_params.tensors
