"""The reverse sweep through accepted Runge-Kutta steps."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.error_norm import scaled_rms_reversed, stiffness
from pylocalreg.engines.torch_engine.explicit_rk.kept import Call, StepGraph
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.method import Replay
from pylocalreg.engines.torch_engine.pulled_back import pulled_back
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class ExplicitRKReplay(Replay):
    """Accepted steps taken again, one at a time, for pulling cotangents back.

    The Runge-Kutta sums are linear and are transposed by hand: only calls of ``f`` have a graph, a small one
    for each stage, and the memory is that of one step, in buffers that all steps share.
    """

    def __init__(self, f: RightHandSide, tableau: Tableau, problem: Problem, trajectory: Trajectory) -> None:
        self.f, self.tableau, self.problem, self.trajectory = f, tableau, problem, trajectory
        self.params = problem.params
        self.grad_params = GradientSum(len(problem.params))
        self._stages: list[torch.Tensor] = []
        self._cotangents: list[torch.Tensor] = []

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        t, tableau = self.trajectory.t[index], self.tableau
        stages = len(tableau.b)  # those that anything asked for depends on
        if estimate is not None:
            stages = tableau.stages
        if inside:
            stages = len(tableau.interpolant)
        self._take(index, u, stages)
        if adjoint is None and not inside:
            return None if estimate is None else self._reverse_estimate(estimate)
        by_stage = self._of_solution(t, adjoint, inside)
        frozen = estimate is not None and estimate.gradient == "frozen"
        by_u: torch.Tensor | None = None
        to_params = True
        if estimate is not None and not frozen:
            by_u = self._add_estimate(by_stage, estimate)
            if not estimate.through_state:
                # one sweep for the parameters of both; the state's, of the solution alone, is half of one
                self._pull_back(by_stage, None, keep_graph=True)
                by_stage, by_u, to_params = self._of_solution(t, adjoint, inside), None, False
        adjoint = torch.zeros_like(u) if adjoint is None else adjoint
        for _, cotangent in inside:
            adjoint.add_(cotangent)
        if by_u is not None:
            adjoint.add_(by_u)
        self._pull_back(by_stage, adjoint, to_params=to_params, keep_graph=frozen)
        if estimate is not None and frozen:
            by_u = self._reverse_estimate(estimate)
            if by_u is not None:
                adjoint.add_(by_u)
        return adjoint

    def _of_solution(
        self, t: float, adjoint: torch.Tensor | None, inside: Sequence[tuple[float, torch.Tensor]]
    ) -> list[torch.Tensor | None]:
        """The stages' cotangents, but for what they are to each other, from those of states of the step."""
        by_stage = self._no_cotangents()
        if adjoint is not None:
            self._add_sum(by_stage, self.tableau.b, adjoint)
        for time, cotangent in inside:
            weights = self.tableau.interpolant_weights((time - t) / self.dt)
            self._add_sum(by_stage, weights, cotangent)
        return by_stage

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        t = self.trajectory.t[step.index]
        self._take(step.index, u, self.tableau.stages)
        by_state = self._reverse_estimate(step)
        return [] if by_state is None else [(t, by_state)]

    def _reverse_estimate(self, step: StepCotangent) -> torch.Tensor | None:
        """The pullback of the estimate of the step just taken again."""
        by_stage = self._no_cotangents()
        by_u = self._add_estimate(by_stage, step)
        into = by_u if step.through_state else None
        self._pull_back(by_stage, into, frozen_first_stage=step.gradient == "frozen")
        return into

    def _take(self, index: int, u: torch.Tensor, stages: int) -> None:
        """Take a step from ``u`` again, up to this many stages, but for those whose graphs were kept."""
        t, dt, tableau = self.trajectory.t[index], self.trajectory.dt[index], self.tableau
        kept = self.trajectory.memory.get(index)
        calls: Sequence[object] = []
        if isinstance(kept, StepGraph):  # it serves once: a second backward takes the step again
            calls, self.trajectory.memory[index] = kept.calls, None
        if not self._stages:
            self._stages = [torch.empty_like(u) for _ in tableau.a]
            self._cotangents = [torch.empty_like(u) for _ in tableau.interpolant]
        self.u, self.dt = u, dt
        self.inputs: list[torch.Tensor] = []
        self.graphs: list[torch.Tensor] = []
        self.k: list[torch.Tensor] = []
        nodes = (0.0, *tableau.c)
        with torch.enable_grad():  # the sums are of tensors that want none, and have no graph
            for i in range(stages):
                call = calls[i] if i < len(calls) else None
                if isinstance(call, Call):
                    self.inputs.append(call.input)
                    self.graphs.append(call.output)
                    self.k.append(call.output.detach())
                    continue
                if i > 0:
                    combine(u, tableau.a[i - 1], self.k, dt, out=self._stages[i - 1])
                stage = (u if i == 0 else self._stages[i - 1]).detach().requires_grad_()
                k = self.f(t + nodes[i] * dt, stage)
                self.inputs.append(stage)
                self.graphs.append(k)
                self.k.append(k.detach())

    def _no_cotangents(self) -> list[torch.Tensor | None]:
        """Cotangents of the stages to add to; one such list is in use at a time."""
        return [None] * len(self.k)

    def _pull_back(
        self,
        cotangents: list[torch.Tensor | None],
        grad_u: torch.Tensor | None,
        frozen_first_stage: bool = False,
        to_params: bool = True,
        keep_graph: bool = False,
    ) -> None:
        """Add the gradients of sum_i <cotangents_i, k_i> to ``grad_u`` and those by parameters.

        ``grad_u`` None holds the step's start constant. The cotangents are overwritten.
        """
        params = self.params if to_params else ()
        count = len(params)
        for i in reversed(range(1 if frozen_first_stage else 0, len(self.k))):
            k, cotangent = self.graphs[i], cotangents[i]
            if cotangent is None or not k.requires_grad:
                continue
            wanted = (*params, self.inputs[i]) if i > 0 or grad_u is not None else params
            if not wanted:
                continue
            grads = pulled_back(k, wanted, cotangent, keep_graph)
            self.grad_params.add(grads[:count])
            grad_stage = grads[count] if len(grads) > count else None
            if grad_stage is None:
                continue
            if grad_u is not None:
                grad_u.add_(grad_stage)
            if i > 0:
                self._add_sum(cotangents, self.tableau.a[i - 1], grad_stage)

    def _add_sum(
        self, cotangents: list[torch.Tensor | None], weights: Sequence[float], cotangent: torch.Tensor
    ) -> None:
        """Add to the stages' cotangents where ``cotangent`` is that of dt * sum_i weights_i k_i."""
        for i, weight in enumerate(weights):
            if weight:
                present = cotangents[i]
                if present is None:
                    cotangents[i] = torch.mul(cotangent, self.dt * weight, out=self._cotangents[i])
                else:
                    present.add_(cotangent, alpha=self.dt * weight)

    def _add_estimate(self, cotangents: list[torch.Tensor | None], step: StepCotangent) -> torch.Tensor:
        """Add to the stages' cotangents those of the step's estimate; gives that of u."""
        tableau, k = self.tableau, self.k
        if step.quantity == "stiffness":
            assert tableau.stiffness is not None
            difference = [0.0] * (tableau.stages - 2) + [-1 / self.dt, 1 / self.dt]
            of_f = combine(None, difference, k, self.dt).requires_grad_()
            of_u = combine(None, tableau.stiffness, k, self.dt).requires_grad_()
            with torch.enable_grad():
                value = stiffness(of_f, of_u)
            by_f, by_apart = torch.autograd.grad(value, (of_f, of_u), step.cotangent)
            self._add_sum(cotangents, difference, by_f)
            self._add_sum(cotangents, tableau.stiffness, by_apart)
            return torch.zeros_like(self.u)
        error = combine(None, tableau.btilde, k, self.dt)
        u_new = combine(self.u, tableau.b, k, self.dt)
        tolerances = self.problem.abstol, self.problem.reltol
        cotangent = step.cotangent * abs(self.dt)
        _, by_error, by_new, by_u = scaled_rms_reversed(error, self.u, u_new, *tolerances, cotangent)
        assert by_u is not None
        self._add_sum(cotangents, tableau.btilde, by_error)
        self._add_sum(cotangents, tableau.b, by_new)
        return by_u.add_(by_new)
