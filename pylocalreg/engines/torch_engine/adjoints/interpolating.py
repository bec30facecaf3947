"""The continuous adjoint, solved backwards with the forward solution taken from its dense output.

SciMLSensitivity's InterpolatingAdjoint: the adjoint state and the parameters' gradient are one system,
lambda' = -(df/du)^T lambda and g' = -(df/dp)^T lambda; lambda jumps at every time that has a cotangent.
"""

import dataclasses
from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adjoints.regularized_step import pull_back_error
from pylocalreg.engines.torch_engine.dense_output import trajectory_at
from pylocalreg.engines.torch_engine.explicit_rk import GradientSum, StepReplay
from pylocalreg.engines.torch_engine.integrate import integrate
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS


def interpolating(
    problem: Problem,
    trajectory: Trajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    regularized: StepCotangent | None,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients by u0 and the parameters; the trajectory keeps its stages.

    The backward solve has the problem's own solver and tolerances: gradients are right to about those.
    """
    tableau = TABLEAUS[problem.solver]
    f = RightHandSide(problem.f)
    grad_params = GradientSum(len(problem.params))
    jumps = list(cotangents)
    start, end = problem.tspan
    if regularized is not None:
        i = regularized.index
        t, u, dt = trajectory.t[i], trajectory.u[i], trajectory.dt[i]
        by_state = torch.zeros_like(u)
        replay = StepReplay(f, problem.params, tableau, u)
        replay.take(t, u, dt, tableau.stages)
        pull_back_error(problem, replay, regularized, by_state, grad_params)
        if regularized.through_state:
            direction = 1 if end > start else -1
            jumps = sorted([*jumps, (t, by_state)], key=lambda jump: direction * jump[0])

    backwards = AdjointSystem(f, problem, trajectory)
    shape, size = trajectory.u[0].shape, trajectory.u[0].numel()
    sizes = [p.numel() for p in problem.params]
    state = trajectory.u[0].new_zeros(size + sum(sizes))
    now = end
    while jumps:
        time, _ = jumps[-1]
        if time != now and state.any():
            state = _solve(problem, backwards, (now, time), state)
        now = time
        while jumps and jumps[-1][0] == now:
            state[:size].view(shape).add_(jumps.pop()[1])
    if now != start and state.any():
        state = _solve(problem, backwards, (now, start), state)
    pieces = zip(torch.split(state[size:], sizes), problem.params, backwards.used, strict=True)
    grad_params.add([piece.view_as(p) if used else None for piece, p, used in pieces])
    return state[:size].view(shape), grad_params.tensors


def _solve(
    problem: Problem, backwards: RightHandSide, tspan: tuple[float, float], state: torch.Tensor
) -> torch.Tensor:
    reverse = dataclasses.replace(problem, tspan=tspan, dt=None)
    return integrate(backwards, reverse, state, [tspan[1]], "nothing").outputs[0]


class AdjointSystem(RightHandSide):
    """The right-hand side of (lambda, g), flat in one vector."""

    def __init__(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> None:
        super().__init__(problem.f)
        self.forward, self.params, self.trajectory = f, problem.params, trajectory
        self.tableau = TABLEAUS[problem.solver]
        self.used = [False] * len(problem.params)

    def __call__(self, t: float, state: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        u = trajectory_at(self.tableau, self.trajectory, t).requires_grad_()
        with torch.enable_grad():
            k = self.forward(t, u)
        if not k.requires_grad:
            return torch.zeros_like(state)
        adjoint = state[: u.numel()].view(u.shape)
        by_u, *by_params = torch.autograd.grad(k, (u, *self.params), adjoint, allow_unused=True)
        pieces = [torch.zeros_like(u) if by_u is None else by_u]
        for i, (p, gradient) in enumerate(zip(self.params, by_params, strict=True)):
            self.used[i] |= gradient is not None
            pieces.append(torch.zeros_like(p) if gradient is None else gradient)
        return torch.cat([piece.reshape(-1) for piece in pieces]).neg_()
