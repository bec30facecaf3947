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
        self.abstol, self.reltol = abstol, reltol
        self.scale_by = math.sqrt(u.numel())
        self.abs_u = u.abs()
        self.abs_new = torch.empty_like(u)
        self.scale = torch.empty_like(u)

    def __call__(self, error: torch.Tensor, u_new: torch.Tensor) -> float:
        """EEst of a step to ``u_new``; overwrites ``error``. The one synchronization of a step."""
        torch.abs(u_new, out=self.abs_new)
        torch.maximum(self.abs_u, self.abs_new, out=self.scale)
        self.scale.mul_(self.reltol).add_(self.abstol)
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


class ReplayedStep:
    """An accepted step taken again, one small autograd graph per stage, for pulling cotangents back.

    The Runge-Kutta sums are linear and are transposed by hand: only calls of ``f`` have a graph, and the
    memory is that of one step.
    """

    def __init__(
        self,
        f: RightHandSide,
        params: Sequence[torch.Tensor],
        tableau: Tableau,
        t: float,
        u: torch.Tensor,
        dt: float,
        stages: int,
    ) -> None:
        self.tableau, self.u, self.dt, self.params = tableau, u, dt, params
        self.inputs: list[torch.Tensor] = []
        self.graphs: list[torch.Tensor] = []
        self.k: list[torch.Tensor] = []
        nodes = (0.0, *tableau.c)
        for i in range(stages):
            stage = u.detach() if i == 0 else combine(u, tableau.a[i - 1], self.k, dt)
            stage.requires_grad_()
            with torch.enable_grad():
                k = f(t + nodes[i] * dt, stage)
            self.inputs.append(stage)
            self.graphs.append(k)
            self.k.append(k.detach())

    def no_cotangents(self) -> list[torch.Tensor | None]:
        return [None] * len(self.k)

    def pull_back(
        self,
        cotangents: list[torch.Tensor | None],
        grad_u: torch.Tensor,
        grad_params: "GradientSum",
        frozen_first_stage: bool = False,
        keep_graph: bool = False,
    ) -> None:
        """Add the gradients of sum_i <cotangents_i, k_i> to ``grad_u`` and ``grad_params``.

        The list of cotangents and the tensors in it are overwritten.
        """
        for i in reversed(range(1 if frozen_first_stage else 0, len(self.k))):
            cotangent = cotangents[i]
            if cotangent is None or not self.graphs[i].requires_grad:
                continue
            grad_stage, *grads = torch.autograd.grad(
                self.graphs[i],
                (self.inputs[i], *self.params),
                cotangent,
                retain_graph=keep_graph,
                allow_unused=True,
            )
            grad_params.add(grads)
            if grad_stage is None:
                continue
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
                factor = self.dt * weight
                cotangents[i] = (
                    cotangent * factor if present is None else present.add_(cotangent, alpha=factor)
                )

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
