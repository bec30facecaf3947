"""The contract every engine fulfils: solve, pull back, one-step estimate.

An engine knows nothing of loss weights, training or data. It is handed a :class:`Problem`, gives back a
:class:`Trajectory`, and later pulls cotangents back along that trajectory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.controllers import CONTROLLER_CONSTANTS, ControllerChoice
from pylocalreg.solution import Stats, Steps

Dynamics = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The right-hand side: ``f(t, u)``, ``t`` a scalar tensor, gives du/dt of ``u``'s shape, dtype and device."""

Adjoint = Literal["backsolve", "discrete", "gauss", "interpolating", "quadrature"]
Gradient = Literal["exact", "frozen"]
Jacobian = Literal["system", "per_sample"]
"""Of the whole state as one system, or block by block: one for each entry of the first dimension."""
KeepStages = bool | Literal["auto"]
Landing = Literal["cut", "even"]
Quantity = Literal["error", "stiffness"]
"""What is estimated of a step. ``"error"``: R = EEst * |dt|. ``"stiffness"``: S = rms(f(a) - f(b)) /
rms(a - b) of the last two stages' states a and b, both at the step's end: a lower bound of the Jacobian's
norm."""


class StepSample(Protocol):
    """Chooses accepted steps while they are made, so that only the chosen ones need to be kept."""

    def offer(self, index: int, estimate: float) -> bool:
        """The next accepted step and its estimate; True where it replaces an earlier choice."""

    @property
    def weights(self) -> dict[int, float]:
        """The chosen steps, by index, and each one's weight in the regularizer's sum."""


class Watch(Protocol):
    """Looks on while steps are accepted, and may end a solve inside one."""

    def __call__(self, t: float, t_new: float, at: Callable[[float], torch.Tensor]) -> float | None:
        """The time at which the solve ends within the accepted step from ``t`` to ``t_new``, or None;
        ``at`` is the step's dense output.
        """


@dataclass(frozen=True)
class Keep:
    """What a trajectory keeps of the accepted steps beside (t, dt, EEst).

    Attributes:
        states: the state each step starts from, and that at the end: of all steps, of the end alone, or of
            a number of steps (at most twice as many) spread evenly over them.
        stages: what dense output needs of every step.
        sample: the steps whose states are kept in any case.
        stiffness: the stiffness estimate of every step, which is then what ``sample`` is offered.
        restarts: the states at the asked times, from which an adjoint that solves the state backwards starts
            anew.
    """

    states: Literal["all", "end"] | int = "end"
    stages: bool = False
    sample: StepSample | None = None
    stiffness: bool = False
    restarts: bool = False


@dataclass(frozen=True)
class Calls:
    """How often the dynamics, or the drift and the diffusion, were called."""

    f: int = 0
    diffusion: int = 0

    def __add__(self, other: "Calls") -> "Calls":
        return Calls(self.f + other.f, self.diffusion + other.diffusion)


@dataclass(frozen=True)
class StepOptions:
    """What bounds the steps and steers their controller, by the stack's names; None is the method's own.

    Attributes:
        dtmin, dtmax: bounds of the steps' sizes, without sign.
        tstops: times that steps end at, in rising order; those outside a solve's span are none of its.
        gamma, qmin, qmax, beta1, beta2, qsteady_min, qsteady_max: the controller's constants.
        controller: the controller itself.
        landing: whether the step that would pass a tstop or the end is cut there, as in the stack, or the
            last two before it are of one size.
    """

    dtmin: float | None = None
    dtmax: float | None = None
    tstops: tuple[float, ...] = ()
    gamma: float | None = None
    qmin: float | None = None
    qmax: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    qsteady_min: float | None = None
    qsteady_max: float | None = None
    controller: ControllerChoice = "PI"
    landing: Landing = "cut"

    @cached_property
    def constants(self) -> dict[str, float]:
        """The controller's constants that are given, by name."""
        given = {name: getattr(self, name) for name in CONTROLLER_CONSTANTS}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Problem:
    """An initial value problem without its initial value, and how to solve it.

    With a diffusion ``g`` it is the SDE du = f(t, u) dt + g(t, u) dW, ``noise`` the path of W.
    """

    f: Dynamics
    params: tuple[torch.Tensor, ...]
    tspan: tuple[float, float]
    solver: str
    abstol: float
    reltol: float
    maxiters: int
    dt: float | None = None
    adaptive: bool = True
    jacobian: Jacobian = "system"
    g: Dynamics | None = None
    noise: BrownianPath | None = None
    steps: StepOptions = StepOptions()
    progress: bool = False
    solve_options: tuple[tuple[str, Any], ...] = ()
    """The stack's own, by its names, as rows of LocalReg's `argument`."""
    compiled: CompiledSteps | None = None
    """Where the module's compiled steps are kept; None for steps as they are."""
    keep_stages: KeepStages = False
    """Whether the calls of f keep their graphs for the discrete adjoint."""

    def stop_after(self, t: float) -> float:
        """Where a step from ``t`` ends at the latest: at the next of the tstops, or the end of the span."""
        (start, end), stops = self.tspan, self.steps.tstops
        if end > start:
            i = bisect_right(stops, t)
            return min(stops[i], end) if i < len(stops) else end
        i = bisect_left(stops, t)
        return max(stops[i - 1], end) if i > 0 else end


@dataclass
class Trajectory:
    """The record of one solve: a list entry per accepted step, and the states at the asked times.

    ``u``, ``k`` and ``memory`` are by the step's index, as far as they are kept: the state a step starts
    from (that of index ``naccept`` is the end's), what its dense output needs, and what the method needs
    beside the state to take the step again.
    """

    t: list[float] = field(default_factory=list)
    dt: list[float] = field(default_factory=list)
    EEst: list[float] = field(default_factory=list)
    stiffness: list[float] = field(default_factory=list)
    u: dict[int, torch.Tensor] = field(default_factory=dict)
    k: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    memory: dict[int, object] = field(default_factory=dict)
    outputs: list[torch.Tensor] = field(default_factory=list)
    saved: dict[float, torch.Tensor] = field(default_factory=dict)
    """Outputs by their times, where an adjoint restarts from them."""
    ended: float | None = None
    """Where a watch ended the solve, within the last step, which is recorded whole. The last output is
    there.
    """
    whole_end: float = 0.0
    proposed_dt: float = 0.0
    """Then, the end of that step, and the size of the one that would have come next."""
    calls: Calls = Calls()
    nf: int = 0
    """What the stack counts of them."""
    nreject: int = 0
    sol: Callable[[], Any] | None = None
    """Gives the stack's own solution, where the stack solved."""

    @property
    def naccept(self) -> int:
        return len(self.t)

    @property
    def end(self) -> float:
        """How far the solve came."""
        return self.t[-1] + self.dt[-1] if self.ended is None else self.ended

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

    def stats(self, regularizer: Calls) -> Stats:
        """``regularizer`` are the calls made for it alone."""
        every = self.calls + regularizer
        return Stats(
            nfe=every.f,
            naccept=self.naccept,
            nreject=self.nreject,
            nf=self.nf,
            nfe_regularizer=regularizer.f,
            nfe_diffusion=every.diffusion,
            nfe_diffusion_regularizer=regularizer.diffusion,
        )

    def steps(self) -> Steps:
        return Steps.of(self.t, self.dt, self.EEst)

    def estimate(self, quantity: Quantity, index: int) -> float:
        """R or S of an accepted step."""
        if quantity == "stiffness":
            return self.stiffness[index]
        return self.EEst[index] * abs(self.dt[index])


@dataclass(frozen=True)
class StepAsked:
    """An accepted step whose estimate is asked for with a graph, the step's size held constant.

    ``through_state`` False also holds the state the step starts from constant.
    """

    index: int
    quantity: Quantity
    gradient: Gradient
    through_state: bool

    @property
    def holds_nothing(self) -> bool:
        """Whether the estimate's graph is the step's own: neither its start nor its first stage is held."""
        return self.through_state and self.gradient == "exact"

    def start(self, u: torch.Tensor) -> torch.Tensor:
        """The state the step starts from, ``u``, as the estimate has it."""
        return u if self.through_state else u.detach()


@dataclass(frozen=True)
class StepCotangent:
    """The cotangent of one accepted step's estimate, the step's size held constant.

    ``through_state`` also pulls back to the state the step starts from.
    """

    index: int
    cotangent: torch.Tensor
    quantity: Quantity
    gradient: Gradient
    through_state: bool


class Repeat(Protocol):
    """A solve of one problem that is made again and again without gradient, from states like the first."""

    def __call__(
        self, u0: torch.Tensor, dt: float | None
    ) -> tuple[torch.Tensor, Stats, Steps, Callable[[], Any] | None]:
        """With the first step ``dt``: the state at the asked time, or those at the asked times stacked; the
        counts, the steps, and what gives the stack's own solution, where it solved.
        """


class Engine(Protocol):
    """What an engine can do. All methods run without leaving an autograd graph behind but `estimate`."""

    name: str

    def check(
        self,
        solver: str,
        adjoint: str,
        adaptive: bool | None = None,
        checkpoints: int | None = None,
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
    ) -> bool:
        """Whether the steps are adaptive: ``adaptive``, or where it is None what the solver can.

        Raises `OptionError` by name for what the engine cannot do, before anything starts.
        """

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        """Raise `OptionError` where the solver's steps have no such estimate."""

    def is_stochastic(self, solver: str) -> bool:
        """Whether the solver is one of SDEs."""

    def keep_for(self, problem: "Problem", adjoint: Adjoint, checkpoints: int | None) -> Keep:
        """What a trajectory must keep for this adjoint.

        Raises `OptionError` where the engine has no gradient of the problem's solves.
        """

    def solve(
        self,
        problem: Problem,
        u0: torch.Tensor,
        times: Sequence[float],
        keep: Keep,
        watch: Watch | None = None,
    ) -> Trajectory:
        """Solve over the whole span; ``outputs`` holds the states at ``times`` (ordered along the span).
        Where ``watch`` ends it, they are those up to there and the one there.
        """

    def repeat(
        self, problem: Problem, u0: torch.Tensor, times: Sequence[float], stacked: bool
    ) -> Repeat | None:
        """Solves as ``solve`` makes them with nothing kept, from states of the shape, dtype and device of
        ``u0`` and with the parameters' memory as it is then, sooner; None where the engine has no such way.
        """

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        """Dense output at ``time`` of a trajectory that keeps its stages."""

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Gradients with respect to u0 and to each of ``problem.params``.

        ``cotangents`` are (time, cotangent of u(time)), ordered along the span; ``steps`` have an index each,
        in rising order, and their states are kept.
        """

    def retake(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        u0: torch.Tensor,
        times: Sequence[float],
        steps: Sequence[StepAsked],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The accepted steps taken again from ``u0`` in one graph: the states at ``times``, ordered along the
        span, and the estimates of ``steps``. For derivatives of an order beyond the first.

        Raises `DoubleBackwardError` where there are none.
        """

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
        """The automatic step size at (t, u) towards the end of the span, and the calls it took."""

    def estimate(
        self, problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, Calls]:
        """The estimate of one step from (t, u), differentiable by autograd, and the calls it took."""
