"""The reverse sweep through accepted Rosenbrock steps."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.linearization import pull_back_directional
from pylocalreg.engines.torch_engine.method import Replay
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau

Cotangents = list[torch.Tensor | None]


class RosenbrockReplay(Replay):
    """Accepted steps taken again, one at a time, for pulling cotangents back.

    With y_i = (I - h J)^-T zbar_i, the cotangent of stage i's right-hand side, the step depends on the
    Jacobian and on df/dt by sum_i <h y_i, J z_i + d_i dt df/dt>: derivatives of f along the stages, whose
    own gradient is one reverse pass. No gradient of a matrix is formed.
    """

    def __init__(
        self, f: RightHandSide, tableau: RosenbrockTableau, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory
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
        t, dt, tableau = self.trajectory.t[index], self.trajectory.dt[index], self.tableau
        self._take(t, u, dt, tableau.stages if estimate is not None else len(tableau.b))
        if adjoint is not None or inside:
            by_stage: Cotangents = [None] * len(self.z)
            if adjoint is None:
                adjoint = torch.zeros_like(u)
            else:
                _add_sum(by_stage, tableau.b, adjoint)
            for time, cotangent in inside:
                adjoint.add_(cotangent)
                theta = (time - t) / dt
                for i, row in enumerate(tableau.dense):
                    _add_sum(by_stage, row, cotangent, theta ** (i + 1))
            self._pull_back(by_stage, adjoint, keep_graph=estimate is not None)
        if estimate is not None:
            by_u = self._reverse_estimate(estimate)
            if by_u is not None:
                adjoint = by_u if adjoint is None else adjoint.add_(by_u)
        return adjoint

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        t = self.trajectory.t[step.index]
        self._take(t, u, self.trajectory.dt[step.index], self.tableau.stages)
        by_state = self._reverse_estimate(step)
        return [] if by_state is None else [(t, by_state)]

    def _reverse_estimate(self, step: StepCotangent) -> torch.Tensor | None:
        """The pullback of the estimate of the step just taken again."""
        tableau, problem = self.tableau, self.problem
        error = combine(None, tableau.btilde, self.z, 1.0).requires_grad_()
        u = self.u.detach().requires_grad_()
        u_new = combine(self.u, tableau.b, self.z, 1.0).requires_grad_()
        with torch.enable_grad():
            value = scaled_rms(error, u, u_new, problem.abstol, problem.reltol) * abs(self.dt)
        by_error, by_u, by_u_new = torch.autograd.grad(value, (error, u, u_new), step.cotangent)
        by_stage: Cotangents = [None] * len(self.z)
        _add_sum(by_stage, tableau.btilde, by_error)
        _add_sum(by_stage, tableau.b, by_u_new)
        into = by_u.add_(by_u_new) if step.through_state else None
        self._pull_back(by_stage, into, frozen_first_stage=step.gradient == "frozen")
        return into

    def _take(self, t: float, u: torch.Tensor, dt: float, stages: int) -> None:
        """Take the step of size ``dt`` from (t, u) again, up to this many stages."""
        tableau = self.tableau
        self.t, self.u, self.dt = t, u, dt
        linearization = self.f.linearized_again(t, u, self.problem.jacobian)
        self.h = tableau.gamma * dt
        self.factors = linearization.factorize(self.h)
        self.inputs: list[torch.Tensor] = []
        self.graphs: list[torch.Tensor] = []
        self.z: list[torch.Tensor] = []
        for i in range(stages):
            state = u if i == 0 else combine(u, tableau.a[i - 1], self.z, 1.0)
            state = state.detach().requires_grad_()
            with torch.enable_grad():
                k = self.f(t + tableau.c[i] * dt, state)
            self.inputs.append(state)
            self.graphs.append(k)
            rhs = torch.add(k.detach(), linearization.dT, alpha=tableau.d[i] * dt).mul_(self.h)
            if i > 0:
                combine(rhs, tableau.gamma_C[i - 1], self.z, 1.0, out=rhs)
            self.z.append(self.factors.solve(rhs))

    def _pull_back(
        self,
        cotangents: Cotangents,
        grad_u: torch.Tensor | None,
        frozen_first_stage: bool = False,
        keep_graph: bool = False,
    ) -> None:
        """Add the gradients of sum_i <cotangents_i, z_i> to ``grad_u`` and those by parameters.

        ``grad_u`` None holds the step's start constant. The cotangents are overwritten.
        """
        tableau, dt = self.tableau, self.dt
        used, by_f = [], []
        for i in reversed(range(1 if frozen_first_stage else 0, len(self.z))):
            cotangent = cotangents[i]
            if cotangent is None:
                continue
            y = self.factors.solve(cotangent, transpose=True)
            if i > 0:
                _add_sum(cotangents, tableau.gamma_C[i - 1], y)
            y.mul_(self.h)
            used.append(i)
            by_f.append(y)
            if not self.graphs[i].requires_grad:
                continue
            *by_params, by_state = torch.autograd.grad(
                self.graphs[i], (*self.params, self.inputs[i]), y, retain_graph=keep_graph, allow_unused=True
            )
            self.grad_params.add(by_params)
            if by_state is not None:
                if grad_u is not None:
                    grad_u.add_(by_state)
                if i > 0:
                    _add_sum(cotangents, tableau.a[i - 1], by_state)
        if used:
            by_t = self.u.new_tensor([tableau.d[i] * dt for i in used])
            along = torch.stack([self.z[i] for i in used])
            by_u, by_jacobian = pull_back_directional(
                self.f.f, self.params, self.t, self.u, by_t, along, torch.stack(by_f)
            )
            self.grad_params.add(by_jacobian)
            if grad_u is not None and by_u is not None:
                grad_u.add_(by_u)


def _add_sum(
    cotangents: Cotangents, weights: Sequence[float], cotangent: torch.Tensor, scale: float = 1.0
) -> None:
    """Add to the stages' cotangents where ``cotangent`` is that of scale * sum_i weights_i z_i."""
    for i, weight in enumerate(weights):
        if weight:
            present = cotangents[i]
            if present is None:
                cotangents[i] = cotangent * (scale * weight)
            else:
                present.add_(cotangent, alpha=scale * weight)
