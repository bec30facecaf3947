"""The reverse sweep through accepted Adams steps."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adams.history import History, Slope, is_start
from pylocalreg.engines.torch_engine.adams.step import coefficients, hermite_weights, take
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.method import Replay
from pylocalreg.engines.torch_engine.one_sided import on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide

Past = tuple[torch.Tensor, torch.Tensor]
"""f1 and f2 of a step, with autograd."""
ByHistory = list[tuple[Slope, torch.Tensor]]
"""Cotangents of earlier slopes."""


class AdamsReplay(Replay):
    """Accepted steps taken again with autograd, one at a time.

    A step's slope serves the two steps after it as well: what they pull back to it waits in ``_owed``, by
    time, until the step that evaluates it is reversed.
    """

    def __init__(
        self, f: RightHandSide, corrects: bool, start: ExplicitRK, problem: Problem, trajectory: Trajectory
    ) -> None:
        self.f, self.corrects, self.problem, self.trajectory = f, corrects, problem, trajectory
        self.start = start.replay(f, problem, trajectory)
        self.grad_params = self.start.grad_params
        self._owed: dict[float, torch.Tensor] = {}

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        t, dt, history = self.trajectory.t[index], self.trajectory.dt[index], self._history(index)
        by_start = torch.zeros_like(u)  # what reaches the start beside the step itself
        for time, cotangent in inside:
            change, by_k, by_k_new = hermite_weights((time - t) / dt)
            by_start.add_(cotangent, alpha=1 - change)
            self._owe(t, cotangent * (dt * by_k))
            by_end = self._pull_back_slope(
                t + dt, self.trajectory.u[index + 1], cotangent * (dt * by_k_new)
            ).add_(cotangent, alpha=change)
            adjoint = by_end if adjoint is None else adjoint.add_(by_end)
        if estimate is not None:
            by_u, by_history = self._reverse_estimate(estimate, u, history)
            if by_u is not None:
                by_start.add_(by_u)
            for slope, cotangent in by_history:
                self._owe(slope.t, cotangent)
        owed = self._owed.pop(t, None)
        if not is_start(history):
            if adjoint is not None or owed is not None:
                by_start.add_(self._reverse_adams(t, u, dt, history, adjoint, owed))
            return by_start
        if owed is not None:
            by_start.add_(self._pull_back_slope(t, u, owed))
        if adjoint is not None:
            by_step = self.start.reverse(index, u, adjoint, (), None)
            assert by_step is not None
            by_start.add_(by_step)
        return by_start

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        by_u, by_history = self._reverse_estimate(step, u, self._history(step.index))
        jumps = [] if by_u is None else [(self.trajectory.t[step.index], by_u)]
        for s, cotangent in by_history:
            with on_side(self.f.f, s.t, s.dt):
                jumps.append((s.t, self._pull_back_slope(s.t, s.u, cotangent)))
        return jumps

    def _history(self, index: int) -> History:
        history = self.trajectory.memory[index]
        assert isinstance(history, tuple)
        return history

    def _owe(self, time: float, cotangent: torch.Tensor) -> None:
        present = self._owed.get(time)
        self._owed[time] = cotangent if present is None else present + cotangent

    def _take(
        self, t: float, u: torch.Tensor, k: torch.Tensor, dt: float, history: History, past: Past
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new state and its error, built with autograd where that is enabled."""
        c = coefficients(dt, history)
        return take(self.corrects, u, (k, *past), c, lambda end: self.f(t + dt, end))

    def _past(self, t: float, k: torch.Tensor, history: History) -> Past:
        """f1 and f2 as leaves, or k itself where a rejected start left the step's own slope behind."""
        one, two = (k if s.t == t else s.k.detach().requires_grad_() for s in history)
        return one, two

    def _reverse_adams(
        self,
        t: float,
        u: torch.Tensor,
        dt: float,
        history: History,
        adjoint: torch.Tensor | None,
        owed: torch.Tensor | None,
    ) -> torch.Tensor:
        """The cotangent of the step's start, from those of its end and of its slope."""
        start = u.detach().requires_grad_()
        outputs, cotangents = [], []
        with torch.enable_grad():
            k = self.f(t, start)
            past = self._past(t, k, history)
            if adjoint is not None:
                outputs.append(self._take(t, start, k, dt, history, past)[0])
                cotangents.append(adjoint)
        if owed is not None and k.requires_grad:
            outputs.append(k)
            cotangents.append(owed)
        if not outputs:
            return torch.zeros_like(u)
        by_u, by_past = self._gradients(outputs, cotangents, start, past, history, t)
        for slope, cotangent in by_past:
            self._owe(slope.t, cotangent)
        return torch.zeros_like(u) if by_u is None else by_u

    def _reverse_estimate(
        self, step: StepCotangent, u: torch.Tensor, history: History
    ) -> tuple[torch.Tensor | None, ByHistory]:
        """The cotangents of the state that the step starts from and of the earlier slopes: none where the
        step holds them constant.
        """
        t, dt, problem = self.trajectory.t[step.index], self.trajectory.dt[step.index], self.problem
        if is_start(history):
            of_start = self.start.pull_back_estimate(step, u)
            return (of_start[0][1] if of_start else None), []
        start = u.detach().requires_grad_()
        with torch.enable_grad():
            k = self.f(t, start if step.through_state else u)
            if step.gradient == "frozen":
                k = k.detach()
            past = self._past(t, k, history)
            u_new, error = self._take(t, start, k, dt, history, past)
            value = scaled_rms(error, start, u_new, problem.abstol, problem.reltol) * abs(dt)
        by_u, by_history = self._gradients([value], [step.cotangent], start, past, history, t)
        if not step.through_state:
            return None, []
        return by_u, [] if step.gradient == "frozen" else by_history

    def _gradients(
        self,
        outputs: list[torch.Tensor],
        cotangents: list[torch.Tensor],
        start: torch.Tensor,
        past: Past,
        history: History,
        t: float,
    ) -> tuple[torch.Tensor | None, ByHistory]:
        """By the start and the earlier slopes; adds those by parameters."""
        earlier = [(s, leaf) for s, leaf in zip(history, past, strict=True) if s.t != t]
        wanted = [start, *(leaf for _, leaf in earlier), *self.problem.params]
        grads = torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True)
        self.grad_params.add(grads[1 + len(earlier) :])
        by_history = [
            (s, g) for (s, _), g in zip(earlier, grads[1 : 1 + len(earlier)], strict=True) if g is not None
        ]
        return grads[0], by_history

    def _pull_back_slope(self, t: float, u: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        """The gradient of <cotangent, f(t, u)> by u; adds those by parameters."""
        start = u.detach().requires_grad_()
        with torch.enable_grad():
            k = self.f(t, start)
        if not k.requires_grad:
            return torch.zeros_like(u)
        by_u, *by_params = torch.autograd.grad(k, (start, *self.problem.params), cotangent, allow_unused=True)
        self.grad_params.add(by_params)
        return torch.zeros_like(u) if by_u is None else by_u.clone()
