"""The reverse sweep through accepted steps of an SDE, over the path they were taken on."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.error_norm import rms
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.sde.step import Factor, Stages, error_estimate, integrals_of
from pylocalreg.engines.torch_engine.sde.tableau import Row, StochasticTableau

Cotangents = list[torch.Tensor | None]


def _add_to(cotangents: Cotangents, factor: Factor, weights: Row, cotangent: torch.Tensor) -> None:
    """Add to the stages' cotangents where ``cotangent`` is that of factor * sum_i weights_i stages_i."""
    if not any(weights):
        return
    by_sum = cotangent * factor
    for i, weight in enumerate(weights):
        if weight:
            present = cotangents[i]
            cotangents[i] = by_sum * weight if present is None else present.add_(by_sum, alpha=weight)


class StochasticRKReplay:
    """Accepted steps taken again, one at a time, for pulling cotangents back.

    As in `ExplicitRKReplay` the sums of stages are transposed by hand, and only calls of the drift and of
    the diffusion have a graph. The noise is that of the path, which remembers it, and is held constant.
    """

    def __init__(
        self, f: RightHandSide, tableau: StochasticTableau, problem: Problem, trajectory: Trajectory
    ) -> None:
        assert f.diffusion is not None
        self.f, self.g, self.tableau = f, f.diffusion, tableau
        self.problem, self.trajectory = problem, trajectory
        self.params = problem.params
        self.grad_params = GradientSum(len(problem.params))

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        self._take(index, u)
        if adjoint is not None or inside:
            by_new = torch.zeros_like(u) if adjoint is None else adjoint
            by_u = torch.zeros_like(u)
            for time, cotangent in inside:
                theta = (time - t) / dt
                by_u.add_(cotangent, alpha=1 - theta)
                by_new.add_(cotangent, alpha=theta)
            by_k, by_g = self._no_cotangents()
            self._add_new_state(by_k, by_g, by_new)
            adjoint = by_u.add_(by_new)
            self._pull_back(by_k, by_g, adjoint, keep_graph=estimate is not None)
        if estimate is not None:
            by_start = self._reverse_estimate(estimate)
            if by_start is not None:
                adjoint = by_start if adjoint is None else adjoint.add_(by_start)
        return adjoint

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> torch.Tensor | None:
        self._take(step.index, u)
        return self._reverse_estimate(step)

    def _take(self, index: int, u: torch.Tensor) -> None:
        """Take the step from ``u`` again, each call of the drift and the diffusion with its own graph."""
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        self.stages = stages = Stages(self.tableau, t, u, integrals_of(self.problem, u.dtype, t, dt))
        self.graphs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for of_drift, _, stage in self.tableau.calls:
            state = stages.input(stage).detach().requires_grad_()
            with torch.enable_grad():
                value = (self.f if of_drift else self.g)(stages.time(stage), state)
            self.graphs.append((state, value))
            (stages.k if of_drift else stages.g).append(value.detach())

    def _no_cotangents(self) -> tuple[Cotangents, Cotangents]:
        """Cotangents to add to of the drift's stages and of the diffusion's."""
        return [None] * len(self.tableau.drift), [None] * len(self.tableau.diffusion)

    def _add_new_state(self, by_k: Cotangents, by_g: Cotangents, cotangent: torch.Tensor) -> None:
        """Add to the stages' cotangents where ``cotangent`` is that of the new state."""
        _add_to(by_k, self.stages.dt, self.tableau.alpha, cotangent)
        for integral, row in self.tableau.beta.items():
            _add_to(by_g, self.stages.integrals[integral], row, cotangent)

    def _pull_back(
        self,
        by_k: Cotangents,
        by_g: Cotangents,
        grad_u: torch.Tensor | None,
        frozen_first_stage: bool = False,
        keep_graph: bool = False,
    ) -> None:
        """Add the gradients of sum_i <by_k_i, k_i> + sum_i <by_g_i, g_i>: by u to ``grad_u``, by parameters.

        ``grad_u`` None holds the step's start constant.
        """
        calls = zip(reversed(self.tableau.calls), reversed(self.graphs), strict=True)
        for (of_drift, i, stage), (state, value) in calls:
            cotangent = (by_k if of_drift else by_g)[i]
            if cotangent is None or not value.requires_grad or (frozen_first_stage and i == 0):
                continue
            grads = torch.autograd.grad(
                value, [*self.params, state], cotangent, retain_graph=keep_graph, allow_unused=True
            )
            self.grad_params.add(grads[:-1])
            by_state = grads[-1]
            if by_state is None:
                continue
            if grad_u is not None:
                grad_u.add_(by_state)
            _add_to(by_k, self.stages.dt, stage.a, by_state)
            _add_to(by_g, self.stages.integrals[stage.integral], stage.b, by_state)

    def _reverse_estimate(self, step: StepCotangent) -> torch.Tensor | None:
        """The pullback of the estimate of the step just taken again."""
        by_k, by_g = self._no_cotangents()
        if step.quantity == "stiffness":
            by_u = self._add_stiffness(by_k, by_g, step.cotangent)
        else:
            by_u = self._add_error(by_k, by_g, step.cotangent)
        into = by_u if step.through_state else None
        self._pull_back(by_k, by_g, into, frozen_first_stage=step.gradient == "frozen")
        return into

    def _add_error(self, by_k: Cotangents, by_g: Cotangents, cotangent: torch.Tensor) -> torch.Tensor:
        """Add to the stages' cotangents those of EEst dt; gives that of u."""
        tableau, stages, problem = self.tableau, self.stages, self.problem
        leaves = (*stages.errors(), stages.u.detach().clone(), stages.new_state())
        E1, E2, u, u_new = (x.requires_grad_() for x in leaves)
        with torch.enable_grad():
            EEst = error_estimate(
                tableau, (E1, E2), u, u_new, stages.integrals, problem.abstol, problem.reltol
            )
            by_E1, by_E2, by_u, by_u_new = torch.autograd.grad(
                EEst * stages.dt, (E1, E2, u, u_new), cotangent
            )
        _add_to(by_k, stages.dt, tableau.error_drift, by_E1)
        for integral, row in tableau.error_diffusion.items():
            _add_to(by_g, stages.integrals[integral], row, by_E2)
        self._add_new_state(by_k, by_g, by_u_new)
        return by_u + by_u_new

    def _add_stiffness(self, by_k: Cotangents, by_g: Cotangents, cotangent: torch.Tensor) -> torch.Tensor:
        """Add to the stages' cotangents those of the stiffness estimate; gives that of u, which is zero."""
        stages = self.stages
        of_f, of_u = (x.requires_grad_() for x in stages.last_apart())
        with torch.enable_grad():
            by_f, by_apart = torch.autograd.grad(rms(of_f) / rms(of_u), (of_f, of_u), cotangent)
        for sign, stage, i in ((-1.0, self.tableau.drift[-2], -2), (1.0, self.tableau.drift[-1], -1)):
            present = by_k[i]
            by_k[i] = sign * by_f if present is None else present.add_(by_f, alpha=sign)
            _add_to(by_k, sign * stages.dt, stage.a, by_apart)
            _add_to(by_g, stages.integrals[stage.integral], tuple(sign * b for b in stage.b), by_apart)
        return torch.zeros_like(stages.u)
