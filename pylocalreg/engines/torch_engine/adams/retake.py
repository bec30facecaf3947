"""Accepted Adams steps taken again in one autograd graph."""

import torch

from pylocalreg.engines.base import Problem, StepAsked, Trajectory
from pylocalreg.engines.torch_engine.adams.history import is_start
from pylocalreg.engines.torch_engine.adams.step import coefficients, hermite, take
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class AdamsRetake:
    """Each step's slope is evaluated once, and is in the graph of the steps after it as well.

    Which slopes a step is made of is the trajectory's memory: a rejected starting step left its own behind.
    """

    def __init__(
        self, f: RightHandSide, corrects: bool, start: ExplicitRK, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.corrects, self.problem, self.trajectory = f, corrects, problem, trajectory
        self.start = start.retake(f, problem, trajectory)
        self.slopes: dict[float, torch.Tensor] = {}
        """By time."""
        self.k_new: torch.Tensor | None = None

    def take(self, index: int, u: torch.Tensor) -> torch.Tensor:
        history = self.trajectory.memory[index]
        assert isinstance(history, tuple)
        self.history = history
        self.t, self.u, self.dt = self.trajectory.t[index], u, self.trajectory.dt[index]
        self.k = self.f(self.t, u) if self.k_new is None else self.k_new
        self.slopes[self.t] = self.k
        if is_start(history):
            self.start.k1 = self.k
            self.u_new = self.start.take(index, u)
            self.k_new = self.start.ks[-1]
        else:
            one, two = (self.slopes[slope.t] for slope in history)
            self.u_new, self.error = self._step(u, (self.k, one, two))
            self.k_new = self.f(self.t + self.dt, self.u_new)
        return self.u_new

    def _step(
        self, u: torch.Tensor, slopes: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new state and its error."""
        c = coefficients(self.dt, self.history)
        return take(self.corrects, u, slopes, c, lambda end: self.f(self.t + self.dt, end))

    def inside(self, time: float) -> torch.Tensor:
        assert self.k_new is not None
        return hermite(self.u, self.u_new, self.k, self.k_new, self.dt, (time - self.t) / self.dt)

    def estimate(self, asked: StepAsked) -> torch.Tensor:
        if is_start(self.history):
            return self.start.estimate(asked)
        problem, start, u_new, error = self.problem, self.u, self.u_new, self.error
        if not asked.holds_nothing:  # then the earlier slopes are constants
            start = asked.start(self.u)
            k = self.k.detach() if asked.gradient == "frozen" else self.f(self.t, start)
            one, two = (k if s.t == self.t else self.slopes[s.t].detach() for s in self.history)
            u_new, error = self._step(start, (k, one, two))
        return scaled_rms(error, start, u_new, problem.abstol, problem.reltol) * abs(self.dt)
