"""Accepted Rosenbrock steps taken again in one autograd graph, through the Jacobian too."""

import torch

from pylocalreg.engines.base import Problem, StepAsked, Trajectory
from pylocalreg.engines.torch_engine.explicit_rk.step import differentiable_sum
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock.step import differentiable_step, estimate_of_stages
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau


class RosenbrockRetake:
    """Every step begins with nothing but the state."""

    def __init__(
        self, f: RightHandSide, tableau: RosenbrockTableau, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory

    def take(self, index: int, u: torch.Tensor) -> torch.Tensor:
        self.t, self.u, self.dt = self.trajectory.t[index], u, self.trajectory.dt[index]
        self.z, self.u_new = differentiable_step(self.f, self.tableau, self.t, u, self.dt, self.problem)
        return self.u_new

    def inside(self, time: float) -> torch.Tensor:
        theta = (time - self.t) / self.dt
        state = self.u
        for i, row in enumerate(self.tableau.dense):
            state = differentiable_sum(state, row, self.z, theta ** (i + 1))
        return state

    def estimate(self, asked: StepAsked) -> torch.Tensor:
        f, tableau, dt, problem = self.f, self.tableau, self.dt, self.problem
        start, z, u_new = self.u, self.z, self.u_new
        if not asked.holds_nothing:
            start = asked.start(start)
            z, u_new = differentiable_step(f, tableau, self.t, start, dt, problem, asked.gradient)
        return estimate_of_stages(tableau, start, u_new, z, dt, problem)
