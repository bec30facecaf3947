"""The exact adjoint of the steps taken: each accepted step is taken again and reversed, last one first."""

import itertools
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
    if pending and pending[-1][0] == problem.tspan[1]:
        adjoint = pending.pop()[1].clone()
    alone = sorted(estimates)
    i, together = trajectory.naccept, True
    while i > 0:
        while alone and alone[-1] >= i:
            alone.pop()
        first = alone[-1] + 1 if alone else 0
        if together and first < i and (adjoint is not None or pending):
            passed = _passed(pending, trajectory, first)
            given = replay.reverse_run(first, i, adjoint, passed)
            together = given is not None
            if given is not None:
                adjoint, pending, i = given, pending[: len(pending) - len(passed)], first
                continue
        i -= 1
        t, dt = trajectory.t[i], trajectory.dt[i]
        t_next = trajectory.t[i + 1] if i + 1 < trajectory.naccept else problem.tspan[1]
        inside: list[tuple[float, torch.Tensor]] = []
        for time, cotangent in _passed(pending, trajectory, i):
            pending.pop()
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


def _passed(
    pending: Sequence[tuple[float, torch.Tensor]], trajectory: Trajectory, index: int
) -> list[tuple[float, torch.Tensor]]:
    """Those of ``pending`` that are after the step's start, the last one first."""
    t, dt = trajectory.t[index], trajectory.dt[index]
    return list(itertools.takewhile(lambda asked: (asked[0] - t) * dt > 0, reversed(pending)))
