"""Accepted Runge-Kutta steps taken again in one autograd graph."""

import torch

from pylocalreg.engines.base import Problem, StepAsked, Trajectory
from pylocalreg.engines.torch_engine.explicit_rk.step import (
    add_interpolant_stages,
    differentiable_step,
    differentiable_sum,
    estimate_of_stages,
    estimate_of_step,
)
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class ExplicitRKRetake:
    """The first stage is the last one of the step before where the method is FSAL."""

    def __init__(self, f: RightHandSide, tableau: Tableau, problem: Problem, trajectory: Trajectory) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory
        self.k1: torch.Tensor | None = None

    def take(self, index: int, u: torch.Tensor) -> torch.Tensor:
        f, tableau = self.f, self.tableau
        self.t, self.u, self.dt = self.trajectory.t[index], u, self.trajectory.dt[index]
        k1 = f(self.t, u) if self.k1 is None else self.k1
        self.ks, self.u_new = differentiable_step(f, tableau, self.t, u, self.dt, k1)
        self.k1 = self.ks[-1] if tableau.fsal else None
        return self.u_new

    def inside(self, time: float) -> torch.Tensor:
        add_interpolant_stages(self.f, self.tableau, self.t, self.u, self.dt, self.ks)
        weights = self.tableau.interpolant_weights((time - self.t) / self.dt)
        return differentiable_sum(self.u, weights, self.ks, self.dt)

    def estimate(self, asked: StepAsked) -> torch.Tensor:
        tableau, u, dt, problem = self.tableau, self.u, self.dt, self.problem
        if asked.holds_nothing:
            return estimate_of_stages(tableau, asked.quantity, u, self.u_new, self.ks, dt, problem)
        start = asked.start(u)
        return estimate_of_step(self.f, tableau, asked.quantity, self.t, start, dt, problem, asked.gradient)
