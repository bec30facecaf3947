"""The contract every engine fulfils: solve, pull back, one-step estimate.

An engine knows nothing of loss weights, training or data. It is handed a :class:`Problem`, gives back a
:class:`Trajectory`, and later pulls cotangents back along that trajectory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from pylocalreg.solution import Stats, Steps

Dynamics = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The right-hand side: ``f(t, u)``, ``t`` a scalar tensor, gives du/dt of ``u``'s shape, dtype and device."""

Adjoint = Literal["discrete", "interpolating"]
Gradient = Literal["exact", "frozen"]
Keep = Literal["nothing", "states", "stages"]
"""What a trajectory keeps of each accepted step beside (t, dt, EEst): nothing, the state it starts from,
or that state and the stages."""


@dataclass(frozen=True)
class Problem:
    """An initial value problem without its initial value, and how to solve it."""

    f: Dynamics
    params: tuple[torch.Tensor, ...]
    tspan: tuple[float, float]
    solver: str
    abstol: float
    reltol: float
    maxiters: int
    dt: float | None = None


@dataclass
class Trajectory:
    """The record of one solve: a list entry per accepted step, and the states at the asked times."""

    t: list[float] = field(default_factory=list)
    dt: list[float] = field(default_factory=list)
    EEst: list[float] = field(default_factory=list)
    u: list[torch.Tensor] = field(default_factory=list)
    k: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    nfe: int = 0
    nreject: int = 0

    @property
    def naccept(self) -> int:
        return len(self.t)

    def step_at(self, time: float) -> int:
        """Index of the accepted step that contains ``time``; a step's end belongs to it, not to the next."""
        forward = self.dt[0] > 0
        low, high = 0, self.naccept - 1
        while low < high:
            middle = (low + high + 1) // 2
            start = self.t[middle]
            if start < time if forward else start > time:
                low = middle
            else:
                high = middle - 1
        return low

    def stats(self, nfe_regularizer: int = 0) -> Stats:
        return Stats(self.nfe + nfe_regularizer, self.naccept, self.nreject, nfe_regularizer)

    def steps(self) -> Steps:
        return Steps(*(np.array(column, dtype=np.float64) for column in (self.t, self.dt, self.EEst)))


@dataclass(frozen=True)
class StepCotangent:
    """The cotangent of one accepted step's R = EEst * |dt|, the step's size held constant.

    ``through_state`` also pulls back to the state the step starts from.
    """

    index: int
    cotangent: torch.Tensor
    gradient: Gradient
    through_state: bool


class Engine(Protocol):
    """What an engine can do. All methods run without leaving an autograd graph behind but `local_error`."""

    name: str

    def check(self, solver: str, adjoint: str) -> None:
        """Raise `OptionError` by name for what the engine cannot do, before anything starts."""

    def keep_for(self, adjoint: Adjoint) -> Keep:
        """What a trajectory must keep for this adjoint."""

    def solve(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep) -> Trajectory:
        """Solve over the whole span; ``outputs`` holds the states at ``times`` (ordered along the span)."""

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        """Dense output at ``time`` of a trajectory that keeps its stages."""

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        step: StepCotangent | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Gradients with respect to u0 and to each of ``problem.params``.

        ``cotangents`` are (time, cotangent of u(time)), ordered along the span.
        """

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, int]:
        """The automatic step size at (t, u) towards the end of the span, and the calls of f it took."""

    def local_error(
        self, problem: Problem, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, int]:
        """EEst * |dt| of one step from (t, u), differentiable by autograd, and the calls of f it took."""
