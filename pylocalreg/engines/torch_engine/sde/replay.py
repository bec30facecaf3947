"""The reverse sweep through accepted steps of an SDE, over the path they were taken on."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Gradient, Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.method import Replay
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.sde.step import Stages, estimate, take
from pylocalreg.engines.torch_engine.sde.tableau import StochasticTableau


class StochasticRKReplay(Replay):
    """Accepted steps taken again, one at a time and with a graph of that one step, and pulled back.

    The noise is that of the path, which remembers it, and is held constant.
    """

    def __init__(
        self, f: RightHandSide, tableau: StochasticTableau, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory
        self.grad_params = GradientSum(len(problem.params))

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        stages = self._take(index, u)
        if adjoint is not None or inside:
            by_new = torch.zeros_like(u) if adjoint is None else adjoint
            adjoint = torch.zeros_like(u)
            for time, cotangent in inside:
                theta = (time - stages.t) / stages.dt
                adjoint.add_(cotangent, alpha=1 - theta)
                by_new.add_(cotangent, alpha=theta)
            with torch.enable_grad():
                u_new = stages.new_state()
            adjoint.add_(self._pull_back(u_new, stages.u, by_new, keep_graph=estimate is not None))
        if estimate is not None:
            by_u = self._reverse_estimate(estimate, stages)
            if by_u is not None:
                adjoint = by_u if adjoint is None else adjoint.add_(by_u)
        return adjoint

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        by_state = self._reverse_estimate(step, self._take(step.index, u))
        return [] if by_state is None else [(self.trajectory.t[step.index], by_state)]

    def _take(self, index: int, u: torch.Tensor, gradient: Gradient = "exact") -> Stages:
        """The stages of a step from ``u``, with their graph."""
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        start = u.detach().requires_grad_()
        with torch.enable_grad():
            return take(self.f, self.tableau, self.problem, t, start, dt, gradient)

    def _reverse_estimate(self, step: StepCotangent, stages: Stages) -> torch.Tensor | None:
        """Add the estimate's gradients by parameters; gives that by the step's start, if it is wanted."""
        if step.gradient == "frozen":
            stages = self._take(step.index, stages.u, step.gradient)
        with torch.enable_grad():
            value = estimate(stages, step.quantity, self.problem)
        by_u = self._pull_back(value, stages.u, step.cotangent)
        return by_u if step.through_state else None

    def _pull_back(
        self, value: torch.Tensor, u: torch.Tensor, cotangent: torch.Tensor, keep_graph: bool = False
    ) -> torch.Tensor:
        """The gradient of <cotangent, value> by ``u``; adds those by parameters."""
        by_u, *by_params = torch.autograd.grad(
            value, [u, *self.problem.params], cotangent, retain_graph=keep_graph, allow_unused=True
        )
        self.grad_params.add(by_params)
        return torch.zeros_like(u) if by_u is None else by_u
