"""One step of a stochastic Runge-Kutta method: its integrals, its stages and their sums."""

import math
from collections.abc import Mapping, Sequence

import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import round_time
from pylocalreg.engines.base import Gradient, Problem, Quantity
from pylocalreg.engines.torch_engine.error_norm import mean_square, rms, scaled_rms, stiffness
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.sde.tableau import Integral, Row, Stage, StochasticTableau

Factor = float | torch.Tensor
"""What a sum of stages is multiplied by: a number, or one for each element or each row of elements."""


class Integrals:
    """The numbers of one step over a Brownian path, each computed once."""

    def __init__(self, noise: BrownianPath, t: float, end: float, dt: float) -> None:
        self.noise, self.t, self.end, self.dt = noise, t, end, dt
        self.sqdt = math.sqrt(dt)
        self._known: dict[Integral, Factor] = {"sqdt": self.sqdt, "1/sqdt": 1 / self.sqdt}

    def __getitem__(self, name: Integral) -> Factor:
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    @property
    def dW(self) -> torch.Tensor:
        dW = self["W"]
        assert isinstance(dW, torch.Tensor)
        return dW

    def _compute(self, name: Integral) -> torch.Tensor:
        if name == "W":
            return self.noise.dW(self.t, self.end)
        if name == "WW":
            return (self.dW.square() - self.dt).mul_(0.5 / self.sqdt)
        if name == "WW_strat":
            return self.dW.square().mul_(0.5 / self.sqdt)
        if name == "WZ":
            return torch.add(self.dW, self.noise.dZ(self.t, self.end), alpha=1 / math.sqrt(3)).mul_(0.5)
        return (self.dW.square() - 3 * self.dt).mul_(self.dW).mul_(1 / (6 * self.dt))


def integrals_of(problem: Problem, dtype: torch.dtype, t: float, dt: float) -> Integrals:
    """The numbers of the step from ``t``, over the problem's own Brownian path.

    The path is asked for at the times the loop goes on from: rounded as the state is, a stop exactly.
    """
    noise, end = problem.noise, problem.stop_after(t)
    assert isinstance(noise, BrownianPath)
    t_new = round_time(t + dt, dtype)
    rounding = 100 * torch.finfo(dtype).eps * max(abs(t), abs(end))
    return Integrals(noise, t, end if abs(end - t_new) <= rounding else t_new, dt)


def add_sum(out: torch.Tensor, factor: Factor, weights: Row, stages: Sequence[torch.Tensor]) -> torch.Tensor:
    """out += factor * sum_i weights_i stages_i, in place; there may be more stages than weights."""
    for weight, stage in zip(weights, stages, strict=False):
        if weight:
            if isinstance(factor, torch.Tensor):
                out.addcmul_(factor, stage, value=weight)
            else:
                out.add_(stage, alpha=factor * weight)
    return out


class Stages:
    """The stages of one step, as far as they are evaluated.

    Under autograd the sums have a graph where the stages have one.
    """

    def __init__(
        self,
        tableau: StochasticTableau,
        t: float,
        u: torch.Tensor,
        integrals: Integrals,
    ) -> None:
        self.tableau, self.t, self.u, self.integrals = tableau, t, u, integrals
        self.dt = integrals.dt
        self.k: list[torch.Tensor] = []
        self.g: list[torch.Tensor] = []

    def input(self, stage: Stage, out: torch.Tensor | None = None) -> torch.Tensor:
        """The state a stage is evaluated at; u itself where it is that."""
        if not stage.a and not stage.b:
            return self.u
        state = self.u.clone() if out is None else out.copy_(self.u)
        add_sum(state, self.dt, stage.a, self.k)
        return add_sum(state, self.integrals[stage.integral], stage.b, self.g)

    def time(self, stage: Stage) -> float:
        return self.t + stage.c * self.dt

    def new_state(self, out: torch.Tensor | None = None) -> torch.Tensor:
        u_new = self.u.clone() if out is None else out.copy_(self.u)
        add_sum(u_new, self.dt, self.tableau.alpha, self.k)
        return self._add_diffusion(u_new, self.tableau.beta)

    def errors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """E1 and E2."""
        by_drift = add_sum(torch.zeros_like(self.u), self.dt, self.tableau.error_drift, self.k)
        return by_drift, self._add_diffusion(torch.zeros_like(self.u), self.tableau.error_diffusion)

    def _add_diffusion(self, out: torch.Tensor, weights: Mapping[Integral, Row]) -> torch.Tensor:
        for integral, row in weights.items():
            add_sum(out, self.integrals[integral], row, self.g)
        return out

    def last_apart(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last two drift stages differ by, and what the states they are evaluated at."""
        before, last = self.tableau.drift[-2:]
        return self.k[-1] - self.k[-2], self.input(last) - self.input(before)


def evaluate(
    f: RightHandSide, stages: Stages, out: torch.Tensor | None = None, freeze_first: bool = False
) -> None:
    """Evaluate every stage, at states written to ``out`` one after the other where it is given.

    ``freeze_first`` holds the first stage of the drift and of the diffusion constant.
    """
    g = f.diffusion
    assert g is not None
    call_f, call_g = (f, g) if out is None else (f.owned, g.owned)
    for of_drift, i, stage in stages.tableau.calls:
        call, values = (call_f, stages.k) if of_drift else (call_g, stages.g)
        value = call(stages.time(stage), stages.input(stage, out))
        values.append(value.detach() if freeze_first and i == 0 else value)


def take(
    f: RightHandSide,
    tableau: StochasticTableau,
    problem: Problem,
    t: float,
    u: torch.Tensor,
    dt: float,
    gradient: Gradient = "exact",
) -> Stages:
    """The stages of the step from (t, u), built with autograd when gradients are enabled.

    The noise is that of the problem's path, and a constant. ``"frozen"`` holds the first stages constant too.
    """
    stages = Stages(tableau, t, u, integrals_of(problem, u.dtype, t, dt))
    evaluate(f, stages, freeze_first=gradient == "frozen")
    return stages


def error_estimate(stages: Stages, u_new: torch.Tensor, problem: Problem) -> torch.Tensor:
    """EEst of the step to ``u_new``, a scalar tensor, built with autograd where the stages are."""
    tableau, u = stages.tableau, stages.u
    by_drift, by_diffusion = stages.errors()
    if tableau.milstein_error:
        noise = rms(stages.integrals.dW) ** 3 * mean_square(by_diffusion) / 6
        error = (
            tableau.delta * rms(by_drift) + noise
        )  # one for all elements, and not to be bent at 0 by a norm
        return error * scaled_rms(torch.ones_like(u), u, u_new, problem.abstol, problem.reltol)
    error = by_diffusion.add(by_drift, alpha=tableau.delta)
    return scaled_rms(error, u, u_new, problem.abstol, problem.reltol)


def estimate(stages: Stages, quantity: Quantity, problem: Problem) -> torch.Tensor:
    """R or S of the step, built with autograd where the stages are."""
    if quantity == "stiffness":
        of_f, of_u = stages.last_apart()
        return stiffness(of_f, of_u)
    return error_estimate(stages, stages.new_state(), problem) * stages.dt
