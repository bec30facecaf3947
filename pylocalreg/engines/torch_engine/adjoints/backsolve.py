"""SciMLSensitivity's BacksolveAdjoint: u(t) is solved backwards too, together with lambda and the parameters'
gradient, from the end state, or the nearest state that was asked for or is a checkpoint.
"""

import torch

from pylocalreg.engines.base import Jacobian, Problem, Trajectory
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint, Pullback, flat
from pylocalreg.engines.torch_engine.linearization import DenseLinearization, Linearization, linearize
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class Backsolve(ContinuousAdjoint):
    """Constant memory. The reversed dynamics must be stable between the states that are kept."""

    def __init__(self, problem: Problem, trajectory: Trajectory) -> None:
        super().__init__(problem, trajectory)
        self.system = _System(self.pullback, self.end)
        checkpoints = {trajectory.t[i]: u for i, u in trajectory.u.items() if i < trajectory.naccept}
        self.kept = trajectory.saved | checkpoints
        self.kept[problem.tspan[1]] = self.u = self.end

    def stops(self) -> list[float]:
        return list(self.kept)

    def skip(self, tspan: tuple[float, float]) -> None:
        if tspan[1] not in self.kept:
            self.u = self.integrate(self.f, tspan, self.kept.get(tspan[0], self.u)).outputs[0]

    def advance(self, tspan: tuple[float, float], adjoint: torch.Tensor) -> torch.Tensor:
        u = self.kept.get(tspan[0], self.u)
        state = self.integrate(self.system, tspan, flat([u, adjoint, self.integral])).outputs[0]
        self.u, adjoint, self.integral = torch.split(state, [u.numel(), u.numel(), self.integral.numel()])
        self.u = self.u.view_as(self.end)
        return adjoint.view_as(self.end)


class _System(RightHandSide):
    """The right-hand side of (u, lambda, integral), flat in one vector."""

    def __init__(self, pullback: Pullback, like: torch.Tensor) -> None:
        super().__init__(pullback.f.f)
        self.pullback, self.like = pullback, like

    def __call__(self, t: float, state: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        n = self.like.numel()
        u, adjoint = state[:n].view_as(self.like), state[n : 2 * n].view_as(self.like)
        k, by_u, by_params = self.pullback(t, u, adjoint)
        solved = flat([k, by_u, *by_params])
        solved[n:].neg_()
        return solved

    def linearize(self, t: float, state: torch.Tensor, jacobian: Jacobian) -> Linearization:
        n = self.like.numel()
        u, adjoint = state[:n].view_as(self.like), state[n : 2 * n].view_as(self.like)
        return _Linearization(linearize(self.f, t, u, jacobian), self.pullback, t, u, adjoint)


class _Linearization:
    """lambda follows from u and the integral from both: two systems of the state's size."""

    def __init__(
        self, of_u: DenseLinearization, pullback: Pullback, t: float, u: torch.Tensor, adjoint: torch.Tensor
    ) -> None:
        self.of_u, self.pullback, self.t, self.u, self.adjoint = of_u, pullback, t, u, adjoint
        by_u, by_params = pullback.of_derivative(t, u, 1.0, torch.zeros_like(u), adjoint)
        self.dT = flat([of_u.dT, -by_u, -by_params])

    def factorize(self, h: float) -> "_Factors":
        return _Factors(self, h)


class _Factors:
    def __init__(self, linearization: _Linearization, h: float) -> None:
        self.linearization, self.h = linearization, h
        of_u = linearization.of_u
        self.of_u = of_u.factorize(h)
        self.of_lambda = of_u.negative_transpose(of_u.dT).factorize(h)

    @property
    def singular(self) -> bool:
        return self.of_u.singular or self.of_lambda.singular

    def solve(self, b: torch.Tensor) -> torch.Tensor:
        at, n = self.linearization, self.linearization.u.numel()
        u = self.of_u.solve(b[:n].view_as(at.u))
        by_u, by_params = at.pullback.of_derivative(at.t, at.u, 0.0, u, at.adjoint)
        adjoint = self.of_lambda.solve(b[n : 2 * n].view_as(at.u) - self.h * by_u)
        by_params += at.pullback.by_params(at.t, at.u, adjoint)
        integral = b[2 * n :] - self.h * by_params
        return flat([u, adjoint, integral])
