"""SciMLSensitivity's InterpolatingAdjoint: u(t) by dense output of the forward solve; lambda and the
parameters' gradient are one system.
"""

import torch

from pylocalreg.engines.base import Jacobian, Problem, Trajectory
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint, Pullback, flat
from pylocalreg.engines.torch_engine.adjoints.recall import Recall
from pylocalreg.engines.torch_engine.linearization import DenseLinearization, Linearization, linearize
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

    def linearize(self, t: float, state: torch.Tensor, jacobian: Jacobian) -> Linearization:
        u = self.recall.at(t)
        adjoint = state[: u.numel()].view_as(u)
        of_u, of_params = self.pullback.of_derivative(t, u, 1.0, self.recall.velocity(t), adjoint)
        of_lambda = linearize(self.f, t, u, jacobian).negative_transpose(-of_u)
        return _Linearization(of_lambda, -of_params, self.pullback, t, u)


class _Linearization:
    """The integral follows from lambda and nothing from the integral: only lambda's part is a system."""

    def __init__(
        self, of_lambda: DenseLinearization, dT: torch.Tensor, pullback: Pullback, t: float, u: torch.Tensor
    ) -> None:
        self.of_lambda, self.pullback, self.t, self.u = of_lambda, pullback, t, u
        self.dT = flat([of_lambda.dT, dT])

    def factorize(self, h: float) -> "_Factors":
        return _Factors(self, h)


class _Factors:
    def __init__(self, linearization: _Linearization, h: float) -> None:
        self.linearization, self.h = linearization, h
        self.of_lambda = linearization.of_lambda.factorize(h)

    @property
    def singular(self) -> bool:
        return self.of_lambda.singular

    def solve(self, b: torch.Tensor) -> torch.Tensor:
        at = self.linearization
        n = at.u.numel()
        adjoint = self.of_lambda.solve(b[:n].view_as(at.u))
        integral = b[n:] - self.h * at.pullback.by_params(at.t, at.u, adjoint)
        return flat([adjoint, integral])
