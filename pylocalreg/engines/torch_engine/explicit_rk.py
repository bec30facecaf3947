"""One step of an explicit Runge-Kutta method: stages, error estimate, and the reverse sweep through them."""

import math
from collections.abc import Sequence

import torch

from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


def combine(
    u: torch.Tensor | None,
    weights: Sequence[float],
    ks: Sequence[torch.Tensor],
    dt: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """u + dt * sum_i weights_i k_i, one pass over memory a term; with ``u`` None the sum alone.

    There may be more stages than weights.
    """
    if u is None:
        out = torch.mul(ks[0], dt * weights[0], out=out)
    else:
        out = torch.add(u, ks[0], alpha=dt * weights[0], out=out)
    for weight, k in zip(weights[1:], ks[1:], strict=False):
        if weight:
            out.add_(k, alpha=dt * weight)
    return out


class ErrorNorm:
    """EEst = rms(e / (abstol + max(|u|, |u_new|) reltol)) over every element, in preallocated buffers."""

    def __init__(self, u: torch.Tensor, abstol: float, reltol: float) -> None:
        self.abstol_tensor, self.reltol = u.new_full((), abstol), reltol
        self.scale_by = math.sqrt(u.numel())
        self.abs_u = u.abs()
        self.abs_new = torch.empty_like(u)
        self.scale = torch.empty_like(u)

    def __call__(self, error: torch.Tensor, u_new: torch.Tensor) -> float:
        """EEst of a step to ``u_new``; overwrites ``error``. The one synchronization of a step."""
        torch.abs(u_new, out=self.abs_new)
        torch.maximum(self.abs_u, self.abs_new, out=self.scale)
        torch.add(self.abstol_tensor, self.scale, alpha=self.reltol, out=self.scale)
        rms: torch.Tensor = torch.linalg.vector_norm(error.div_(self.scale))
        return float(rms) / self.scale_by

    def advance(self) -> None:
        """The step was accepted: u_new is the next step's u."""
        self.abs_u, self.abs_new = self.abs_new, self.abs_u


def scaled_rms(
    error: torch.Tensor, u: torch.Tensor, u_new: torch.Tensor, abstol: float, reltol: float
) -> torch.Tensor:
    """EEst as a differentiable scalar tensor."""
    scale = abstol + torch.maximum(u.abs(), u_new.abs()) * reltol
    rms: torch.Tensor = torch.linalg.vector_norm(error / scale) / error.numel() ** 0.5
    return rms


def add_interpolant_stages(
    f: RightHandSide, tableau: Tableau, t: float, u: torch.Tensor, dt: float, ks: list[torch.Tensor]
) -> int:
    """Append the stages that only the interpolant needs, unless they are there; gives their number."""
    if len(ks) == len(tableau.interpolant):
        return 0
    for c, a in tableau.interpolant_rows:
        ks.append(f.owned(t + c * dt, combine(u, a, ks, dt)))
    return len(tableau.interpolant_rows)


def differentiable_step(
    f: RightHandSide,
    tableau: Tableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    freeze_first_stage: bool = False,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The step's own stages and the new state, built with autograd when gradients are enabled."""

    def advanced(weights: Sequence[float]) -> torch.Tensor:
        state = u
        for weight, k in zip(weights, ks, strict=False):
            if weight:
                state = torch.add(state, k, alpha=dt * weight)
        return state

    k1 = f(t, u)
    ks = [k1.detach() if freeze_first_stage else k1]
    for c, a in tableau.inner_rows:
        ks.append(f(t + c * dt, advanced(a)))
    u_new = advanced(tableau.b)
    if tableau.fsal:
        ks.append(f(t + dt, u_new))
    return ks, u_new


def embedded_error(
    f: RightHandSide,
    tableau: Tableau,
    t: float,
    u: torch.Tensor,
    dt: float,
    abstol: float,
    reltol: float,
    freeze_first_stage: bool = False,
) -> torch.Tensor:
    """EEst of one step from (t, u), built with autograd when gradients are enabled."""
    ks, u_new = differentiable_step(f, tableau, t, u, dt, freeze_first_stage)
    error = ks[0] * (dt * tableau.btilde[0])
    for weight, k in zip(tableau.btilde[1:], ks[1:], strict=True):
        if weight:
            error = torch.add(error, k, alpha=dt * weight)
    return scaled_rms(error, u, u_new, abstol, reltol)


class StepReplay:
    """Accepted steps taken again, one at a time, for pulling cotangents back.

    The Runge-Kutta sums are linear and are transposed by hand: only calls of ``f`` have a graph, a small one
    for each stage, and the memory is that of one step, in buffers that all steps share.
    """

    def __init__(
        self, f: RightHandSide, params: Sequence[torch.Tensor], tableau: Tableau, like: torch.Tensor
    ) -> None:
        self.f, self.params, self.tableau = f, params, tableau
        self._stages = [torch.empty_like(like) for _ in tableau.a]
        self._cotangents = [torch.empty_like(like) for _ in tableau.interpolant]

    def take(self, t: float, u: torch.Tensor, dt: float, stages: int) -> None:
        """Take the step of size ``dt`` from (t, u) again, up to this many stages."""
        tableau = self.tableau
        self.u, self.dt = u, dt
        self.inputs: list[torch.Tensor] = []
        self.graphs: list[torch.Tensor] = []
        self.k: list[torch.Tensor] = []
        nodes = (0.0, *tableau.c)
        for i in range(stages):
            if i > 0:
                combine(u, tableau.a[i - 1], self.k, dt, out=self._stages[i - 1])
            stage = (u if i == 0 else self._stages[i - 1]).detach().requires_grad_()
            with torch.enable_grad():
                k = self.f(t + nodes[i] * dt, stage)
            self.inputs.append(stage)
            self.graphs.append(k)
            self.k.append(k.detach())

    def no_cotangents(self) -> list[torch.Tensor | None]:
        """Cotangents of the stages to add to; one such list is in use at a time."""
        return [None] * len(self.k)

    def pull_back(
        self,
        cotangents: list[torch.Tensor | None],
        grad_u: torch.Tensor | None,
        grad_params: "GradientSum",
        frozen_first_stage: bool = False,
        keep_graph: bool = False,
    ) -> None:
        """Add the gradients of sum_i <cotangents_i, k_i> to ``grad_u`` and ``grad_params``.

        ``grad_u`` None holds the step's start constant. The cotangents are overwritten.
        """
        for i in reversed(range(1 if frozen_first_stage else 0, len(self.k))):
            cotangent = cotangents[i]
            if cotangent is None or not self.graphs[i].requires_grad:
                continue
            wanted = list(self.params)
            if i > 0 or grad_u is not None:
                wanted.append(self.inputs[i])
            if not wanted:
                continue
            grads = torch.autograd.grad(
                self.graphs[i], wanted, cotangent, retain_graph=keep_graph, allow_unused=True
            )
            grad_params.add(grads[: len(self.params)])
            grad_stage = grads[-1] if len(grads) > len(self.params) else None
            if grad_stage is None:
                continue
            if grad_u is not None:
                grad_u.add_(grad_stage)
            if i > 0:
                self.add_sum(cotangents, self.tableau.a[i - 1], grad_stage)

    def add_sum(
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

    def add_error(
        self,
        cotangents: list[torch.Tensor | None],
        cotangent: torch.Tensor,
        abstol: float,
        reltol: float,
    ) -> torch.Tensor:
        """Add to the stages' cotangents where ``cotangent`` is that of EEst * |dt|; gives that of u."""
        error = combine(None, self.tableau.btilde, self.k, self.dt).requires_grad_()
        u = self.u.detach().requires_grad_()
        u_new = combine(self.u, self.tableau.b, self.k, self.dt).requires_grad_()
        with torch.enable_grad():
            value = scaled_rms(error, u, u_new, abstol, reltol) * abs(self.dt)
        by_error, by_u, by_u_new = torch.autograd.grad(value, (error, u, u_new), cotangent)
        self.add_sum(cotangents, self.tableau.btilde, by_error)
        self.add_sum(cotangents, self.tableau.b, by_u_new)
        return by_u.add_(by_u_new)


class GradientSum:
    """Gradients by parameters, summed in place; None for a parameter that nothing depends on."""

    def __init__(self, count: int) -> None:
        self.tensors: list[torch.Tensor | None] = [None] * count

    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                present = self.tensors[i]
                # autograd may hand out one tensor for several parameters: own the one written to
                self.tensors[i] = gradient.clone() if present is None else present.add_(gradient)
