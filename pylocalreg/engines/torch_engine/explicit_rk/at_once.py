"""Solves of small states in one compiled call."""

import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch

from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.controllers import smooth
from pylocalreg.engines.base import Calls, Keep, Problem, StepOptions, Trajectory
from pylocalreg.engines.torch_engine.controller import (
    OLD_ERROR_FLOOR,
    Constants,
    IControl,
    PIControl,
    PIDControl,
    control,
)
from pylocalreg.engines.torch_engine.explicit_rk.one_call import (
    has_outputs,
    inner,
    is_small,
    known,
    one_call,
    padded,
    quietly,
)
from pylocalreg.engines.torch_engine.explicit_rk.tensor_loop import STEPS, Steering, TensorLoop
from pylocalreg.engines.torch_engine.functional import NotFunctionalError
from pylocalreg.engines.torch_engine.inductor import AcrossSolves
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


class Method(Hashable, Protocol):
    """One whose solves can be made so: see `method.Method`."""

    name: str

    @property
    def order(self) -> float: ...

    @property
    def adaptive_order(self) -> float: ...

    def constants(self, beta2: float | None) -> Constants: ...

    def loop(self, f: RightHandSide, problem: Problem, u0: torch.Tensor) -> TensorLoop | None:
        """For solves from states like ``u0``; None where there is none.

        Raises:
            NotFunctionalError: the dynamics can not be taken so.
        """


def solved_at_once(
    f: RightHandSide,
    method: Method,
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    keep: Keep,
) -> Trajectory | None:
    """The solve step for step as `integrate` makes it, or None: where something is asked that is not done
    here, the dynamics can not be compiled so, or the solve comes to no good end.
    """
    at_once = prepared(f, method, problem, u0, times, keep)
    return None if at_once is None else at_once.solve(u0, keep, problem.dt)


def prepared(
    f: RightHandSide,
    method: Method,
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    keep: Keep,
) -> "AtOnce | None":
    """For solves from states like ``u0``; None where such are not made here."""
    if problem.compiled is None or problem.compiled.refused(_what(method.name)):
        return None
    if not _done_here(problem, u0, keep):
        return None
    numbers = _control(method, u0.dtype, problem.steps)
    if numbers is None:
        return None
    try:
        step = method.loop(f, problem, u0)
    except NotFunctionalError:
        return None
    if step is None or not has_outputs(step, inner(times, problem)):
        return None
    return AtOnce(step, problem, problem.compiled, *numbers, u0, times)


def _what(name: str) -> str:
    """What is refused where solves by this method can not be compiled."""
    return f"solves by {name} at once"


def _done_here(problem: Problem, u0: torch.Tensor, keep: Keep) -> bool:
    options = problem.steps
    return (
        is_small(u0)
        and u0.is_contiguous()
        and problem.adaptive
        and not (options.dtmin or options.tstops)
        and keep.states in ("all", "end")
        and not (keep.stages or keep.stiffness)
    )


@functools.lru_cache
def _control(
    method: Method, dtype: torch.dtype, options: StepOptions
) -> tuple[bool, tuple[float, ...], tuple[float, ...]] | None:
    """Of the controller: whether it is a PID, its memory and its numbers; None where it is one's own."""
    T = np.float32 if dtype is torch.float32 else np.float64
    own, orders = method.constants(options.beta2), (method.order, method.adaptive_order)
    chosen = control(T, options.controller, own, options.constants, *orders)
    if isinstance(chosen, PIControl | IControl):
        return False, (OLD_ERROR_FLOOR,), chosen.numbers()
    if isinstance(chosen, PIDControl) and chosen.given.limiter is smooth:
        return True, (1.0, 1.0), chosen.numbers()
    return None


class AtOnce:
    """Solves of one problem from states like ``u0``."""

    def __init__(
        self,
        step: TensorLoop,
        problem: Problem,
        steps: CompiledSteps,
        pid: bool,
        memory: tuple[float, ...],
        control: tuple[float, ...],
        u0: torch.Tensor,
        times: Sequence[float],
    ) -> None:
        self.step, self.problem, self.steps, self.times = step, problem, steps, times
        self.what = _what(step.name)
        self.inside = inner(times, problem)
        self.asked = padded(self.inside, problem)
        self.pid, self.memory, self.control = pid, memory, control
        self.even = problem.steps.landing == "even"
        tolerances = problem.abstol, problem.reltol
        self.fixed = problem.tspan[1], _dtmax(problem, u0.dtype), *tolerances, math.sqrt(u0.numel())

    def numbers(
        self, t: float, dt: float | None, first: bool, left: int, memory: tuple[float, ...]
    ) -> torch.Tensor:
        """``of_call`` of `TensorLoop.solve`."""
        every = t, dt or 0.0, first, left, *self.fixed, *memory, *self.control
        return torch.from_numpy(np.array(every))

    def function(self, dt: float | None, keeping: bool) -> AcrossSolves:
        """The compiled loop, for a call with this first step."""
        steering = Steering(self.pid, self.even, dt is None)
        return one_call(self.steps, self.step, "solve", steering, keeping, bool(self.inside))

    @torch.no_grad()
    def solve(self, u0: torch.Tensor, keep: Keep, dt: float | None) -> Trajectory | None:
        """With the first step ``dt``. None where it can not be compiled, or comes to no good end."""
        return quietly(self.steps, self.what, lambda: self._solve(u0, keep, dt))

    def _solve(self, u0: torch.Tensor, keep: Keep, dt: float | None) -> Trajectory | None:
        problem, step, inside = self.problem, self.step, self.inside
        t, t_end = problem.tspan
        memory, u, automatic = self.memory, u0, dt is None
        keeping = keep.states == "all" or keep.sample is not None
        trajectory, every, outputs = Trajectory(), list[torch.Tensor](), {t: u0}
        key = known(step.f, u0, self.asked)
        while t != t_end:
            function = self.function(dt, keeping)
            left = problem.maxiters - trajectory.naccept - trajectory.nreject
            numbers = self.numbers(t, dt, not trajectory.t, left, memory)
            start, shared = t, (step.of_output, self.asked)
            told, u, end, *kept = function(key, (step,), step.of_method, numbers, *shared, u)
            naccept, nreject, t, dt, total, *rows = told.tolist()
            memory, rows = tuple(rows[: len(memory)]), rows[len(memory) :]
            count = int(naccept)
            if not math.isfinite(total) or (count < STEPS and t != t_end):
                return None
            rows = rows[: 3 * count]
            trajectory.t += rows[::3]
            trajectory.dt += rows[1::3]
            trajectory.EEst += rows[2::3]
            trajectory.nreject += int(nreject)
            if keeping:
                every += kept[0].unbind()[:count]
            if inside:
                passed = zip(inside, kept[-1].unbind(), strict=False)
                outputs |= {time: x for time, x in passed if start < time <= t or t <= time < start}
        chosen: Iterable[int] = range(trajectory.naccept) if keep.states == "all" else ()
        if keep.sample is not None:
            for i in range(trajectory.naccept):
                keep.sample.offer(i, trajectory.estimate("error", i))
            chosen = {*chosen, *keep.sample.weights}
        trajectory.u = {i: every[i] for i in chosen} | {trajectory.naccept: u}
        trajectory.outputs = [end if time == t_end else outputs[time].clone() for time in self.times]
        if keep.restarts:
            trajectory.saved = dict(zip(self.times, trajectory.outputs, strict=True))
        trajectory.nf = self.calls(trajectory.naccept, trajectory.nreject, u0, automatic)
        trajectory.calls = Calls(trajectory.nf)
        return trajectory

    def calls(self, naccept: int, nreject: int, u0: torch.Tensor, automatic: bool) -> int:
        """Of f, those of an automatic first step included."""
        return self.step.calls(naccept, nreject, u0) + 2 * automatic


def _dtmax(problem: Problem, dtype: torch.dtype) -> float:
    if problem.steps.dtmax is not None:
        return problem.steps.dtmax
    start, end = problem.tspan
    return float(abs(np.float32(end) - np.float32(start))) if dtype is torch.float32 else abs(end - start)
