"""SciMLSensitivity's QuadratureAdjoint: lambda alone is solved backwards, with dense output; the parameters'
gradient is then integrated by an adaptive Gauss-Kronrod rule.
"""

import torch

from pylocalreg.engines.base import Jacobian, Keep, Problem, Trajectory
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint, Pullback
from pylocalreg.engines.torch_engine.adjoints.gauss_kronrod import gauss_kronrod
from pylocalreg.engines.torch_engine.adjoints.recall import Recall
from pylocalreg.engines.torch_engine.linearization import DenseLinearization, linearize
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class LambdaSystem(RightHandSide):
    """The right-hand side of lambda, of the state's shape."""

    def __init__(self, pullback: Pullback, recall: Recall) -> None:
        super().__init__(pullback.f.f)
        self.pullback, self.recall = pullback, recall

    def __call__(self, t: float, adjoint: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        # not in place: where f gives its input, this is the cotangent itself
        return -self.pullback.by_state(t, self.recall.at(t), adjoint)

    def linearize(self, t: float, adjoint: torch.Tensor, jacobian: Jacobian) -> DenseLinearization:
        u = self.recall.at(t)
        dT, _ = self.pullback.of_derivative(t, u, 1.0, self.recall.velocity(t), adjoint)
        return linearize(self.f, t, u, jacobian).negative_transpose(-dT)


class Quadrature(ContinuousAdjoint):
    """The trajectory keeps its stages, or checkpoints to take them again from; lambda keeps its stages."""

    def __init__(self, problem: Problem, trajectory: Trajectory) -> None:
        super().__init__(problem, trajectory)
        self.system = LambdaSystem(self.pullback, self.recall)

    def advance(self, tspan: tuple[float, float], adjoint: torch.Tensor) -> torch.Tensor:
        backwards = self.integrate(self.system, tspan, adjoint, Keep("all", stages=True))
        if self.integral.numel():
            of_lambda = Recall(self.system, self.problem, backwards)

            def integrand(t: float) -> torch.Tensor:
                return self.pullback.by_params(t, self.recall.at(t), of_lambda.at(t))

            (end, start), problem = tspan, self.problem
            low, high = min(start, end), max(start, end)
            kinks = sorted({*self.trajectory.t, *backwards.t})
            integral = gauss_kronrod(integrand, low, high, kinks, problem.abstol, problem.reltol)
            self.integral.add_(integral, alpha=1 if end > start else -1)
        return backwards.outputs[0]
