"""What the continuous adjoints share: the adjoint equation solved backwards, with a jump at every cotangent.

lambda' = -(df/du)^T lambda, and the gradient by the parameters is the integral of (df/dp)^T lambda. The
adjoints differ in where u(t) comes from and in how the integral is taken.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Keep, Problem, StepCotangent, Trajectory
from pylocalreg.engines.real_parts import from_real, real, real_size
from pylocalreg.engines.torch_engine.adjoints.recall import Recall
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.integrate import OnStep, integrate
from pylocalreg.engines.torch_engine.linearization import pull_back_directional
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.one_sided import on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class ContinuousAdjoint(ABC):
    """One backward solve, with the problem's own solver and tolerances: right to about those."""

    def __init__(self, problem: Problem, trajectory: Trajectory) -> None:
        self.problem, self.trajectory = problem, trajectory
        self.f = RightHandSide.of(problem)
        self.recall = Recall(self.f, problem, trajectory)
        self.pullback = Pullback(self.f, problem.params)
        self.end = trajectory.u[trajectory.naccept]
        self.integral = self.end.new_zeros(real_size(problem.params))

    @abstractmethod
    def advance(self, tspan: tuple[float, float], adjoint: torch.Tensor) -> torch.Tensor:
        """lambda from the start to the end of ``tspan``, which runs backwards; adds to ``integral``."""

    def skip(self, tspan: tuple[float, float]) -> None:  # noqa: B027 (most have nothing to do)
        """Pass over a part of the span behind every cotangent, where lambda is zero."""

    def stops(self) -> list[float]:
        """Times at which the backward solve has to stop, beside those of the cotangents."""
        return []

    def gradients(
        self, cotangents: Sequence[tuple[float, torch.Tensor]], steps: Sequence[StepCotangent]
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Gradients by u0 and the parameters."""
        problem, trajectory = self.problem, self.trajectory
        direction = math.copysign(1, problem.tspan[1] - problem.tspan[0])
        jumps = list(cotangents)
        if steps:
            replay = METHODS[problem.solver].replay(self.f, problem, trajectory)
            for step in steps:
                with on_side(self.f.f, trajectory.t[step.index], trajectory.dt[step.index]):
                    jumps += replay.pull_back_estimate(step, trajectory.u[step.index])
            grad_params = replay.grad_params
        else:
            grad_params = GradientSum(len(problem.params))

        start, now = problem.tspan
        jumps.sort(key=lambda jump: direction * jump[0])
        stops = sorted({start, *self.stops(), *(time for time, _ in jumps)}, key=lambda t: -direction * t)
        adjoint = torch.zeros_like(self.end)
        begun = False
        for time in stops:
            if time != now and begun:
                adjoint = self.advance((now, time), adjoint)
            elif time != now:
                self.skip((now, time))
            now = time
            while jumps and jumps[-1][0] == time:
                adjoint.add_(jumps.pop()[1])
                begun = True
        pieces = zip(from_real(self.integral, problem.params), self.pullback.used, strict=True)
        grad_params.add([piece if used else None for piece, used in pieces])
        return adjoint, grad_params.tensors

    def integrate(
        self,
        system: RightHandSide,
        tspan: tuple[float, float],
        state: torch.Tensor,
        keep: Keep = Keep(),  # noqa: B008 (frozen)
        on_step: OnStep | None = None,
    ) -> Trajectory:
        """A backward solve over ``tspan``; its output is the state at the end of it."""
        problem = self.problem
        dt = None if problem.adaptive or problem.dt is None else -problem.dt
        compiled = problem.compiled if system is self.f else None  # what is compiled are calls of f alone
        reverse = dataclasses.replace(problem, tspan=tspan, dt=dt, compiled=compiled)
        return integrate(system, reverse, state, [tspan[1]], keep, on_step)


class Pullback:
    """df/du and df/dp of the dynamics, transposed and applied to a cotangent."""

    def __init__(self, f: RightHandSide, params: Sequence[torch.Tensor]) -> None:
        self.f, self.params = f, params
        self.used = [False] * len(params)

    def __call__(
        self, t: float, u: torch.Tensor, adjoint: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """f(t, u), and the gradients of <adjoint, f> by u and by each parameter, as `real` has them."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            k = self.f(t, u)
        if not k.requires_grad:
            return k, torch.zeros_like(u), self._real([None] * len(self.params), u)
        by_u, *by_params = torch.autograd.grad(k, (u, *self.params), adjoint, allow_unused=True)
        for i, gradient in enumerate(by_params):
            self.used[i] |= gradient is not None
        return (
            k.detach(),
            torch.zeros_like(u) if by_u is None else by_u,
            self._real(by_params, u),
        )

    def by_state(self, t: float, u: torch.Tensor, adjoint: torch.Tensor) -> torch.Tensor:
        """The gradient of <adjoint, f> by u alone."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            k = self.f(t, u)
        if not k.requires_grad:
            return torch.zeros_like(u)
        (by_u,) = torch.autograd.grad(k, u, adjoint, allow_unused=True)
        return torch.zeros_like(u) if by_u is None else by_u

    def of_derivative(
        self, t: float, u: torch.Tensor, by_t: float, by_u: torch.Tensor, adjoint: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of <adjoint, by_t df/dt + df/du by_u> by u, and those by the parameters, flat."""
        of_u, of_params = pull_back_directional(
            self.f.f, self.params, t, u, u.new_tensor([by_t]), by_u.unsqueeze(0), adjoint.unsqueeze(0)
        )
        by_params = flat([u.new_zeros(0), *self._real(of_params, u)])
        return torch.zeros_like(u) if of_u is None else of_u, by_params

    def by_params(self, t: float, u: torch.Tensor, adjoint: torch.Tensor) -> torch.Tensor:
        """The gradients of <adjoint, f> by the parameters alone, in one flat vector."""
        with torch.enable_grad():
            k = self.f(t, u.detach())
        if not k.requires_grad:
            return u.new_zeros(real_size(self.params))
        gradients = torch.autograd.grad(k, self.params, adjoint, allow_unused=True)
        for i, gradient in enumerate(gradients):
            self.used[i] |= gradient is not None
        return flat(self._real(gradients, u))

    def _real(self, gradients: Sequence[torch.Tensor | None], u: torch.Tensor) -> list[torch.Tensor]:
        """In the state's dtype, as one vector with it."""
        pairs = zip(self.params, gradients, strict=True)
        return [real(torch.zeros_like(p) if g is None else g).to(u.dtype) for p, g in pairs]


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One vector of all elements."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
