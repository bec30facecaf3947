"""SciMLSensitivity's InterpolatingAdjoint: u(t) by dense output of the forward solve; lambda and the
parameters' gradient are one system.
"""

import torch

from pylocalreg.engines.base import Problem, Trajectory
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint, Pullback, flat
from pylocalreg.engines.torch_engine.adjoints.recall import Recall
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class Interpolating(ContinuousAdjoint):
    """The trajectory keeps its stages, or checkpoints to take them again from."""

    def __init__(self, problem: Problem, trajectory: Trajectory) -> None:
        super().__init__(problem, trajectory)
        self.system = _System(self.pullback, self.recall)

    def advance(self, tspan: tuple[float, float], adjoint: torch.Tensor) -> torch.Tensor:
        state = self.integrate(self.system, tspan, flat([adjoint, self.integral])).outputs[0]
        adjoint, self.integral = torch.split(state, [adjoint.numel(), self.integral.numel()])
        return adjoint.view_as(self.end)


class _System(RightHandSide):
    """The right-hand side of (lambda, integral), flat in one vector."""

    def __init__(self, pullback: Pullback, recall: Recall) -> None:
        super().__init__(pullback.f.f)
        self.pullback, self.recall = pullback, recall

    def __call__(self, t: float, state: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        u = self.recall.at(t)
        _, by_u, by_params = self.pullback(t, u, state[: u.numel()].view_as(u))
        return flat([by_u, *by_params]).neg_()
