"""Accepted steps of an SDE taken again in one autograd graph, over the path they were taken on."""

import torch

from pylocalreg.engines.base import Problem, StepAsked, Trajectory
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.sde.step import estimate, take
from pylocalreg.engines.torch_engine.sde.tableau import StochasticTableau


class StochasticRKRetake:
    """The noise is that of the path, which remembers it, and is held constant."""

    def __init__(
        self, f: RightHandSide, tableau: StochasticTableau, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory

    def take(self, index: int, u: torch.Tensor) -> torch.Tensor:
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        self.stages = take(self.f, self.tableau, self.problem, t, u, dt)
        self.u_new = self.stages.new_state()
        return self.u_new

    def inside(self, time: float) -> torch.Tensor:
        stages = self.stages
        return torch.lerp(stages.u, self.u_new, (time - stages.t) / stages.dt)

    def estimate(self, asked: StepAsked) -> torch.Tensor:
        stages = self.stages
        if not asked.holds_nothing:
            start = asked.start(stages.u)
            stages = take(self.f, self.tableau, self.problem, stages.t, start, stages.dt, asked.gradient)
        return estimate(stages, asked.quantity, self.problem)
