"""Solves of small states in one compiled call."""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pylocalreg.engines.base import Keep, Problem, StepOptions, Trajectory
from pylocalreg.engines.torch_engine.controller import PIControl, control
from pylocalreg.engines.torch_engine.explicit_rk.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.explicit_rk.one_call import (
    has_outputs,
    inner,
    is_small,
    known,
    one_call,
    padded,
    unless_refused,
)
from pylocalreg.engines.torch_engine.explicit_rk.tensor_solve import STEPS, TensorSolve, of_output
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide


def solved_at_once(
    f: RightHandSide,
    method: ExplicitRK,
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    keep: Keep,
) -> Trajectory | None:
    """The solve step for step as `integrate` makes it, or None: where something is asked that is not done
    here, the dynamics can not be compiled so, or the solve comes to no good end.
    """
    steps, what = problem.compiled, f"solves by {method.name} at once"
    if steps is None or steps.refused(what) or not _done_here(method, problem, u0, times, keep):
        return None
    pi = _pi(method, u0.dtype, problem.steps)
    if pi is None:
        return None

    def call(step: TensorSolve) -> Trajectory | None:
        return _solved(f, step, problem, pi, u0, times, keep)

    with torch.no_grad():
        return unless_refused(f, method.tableau, problem, what, call)


def _done_here(
    method: ExplicitRK, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep
) -> bool:
    options = problem.steps
    return (
        is_small(u0)
        and u0.is_contiguous()
        and problem.adaptive
        and not (options.dtmin or options.tstops or options.landing != "cut")
        and keep.states in ("all", "end")
        and not (keep.stages or keep.stiffness)
        and has_outputs(method.tableau, inner(times, problem))
    )


@functools.lru_cache
def _pi(method: ExplicitRK, dtype: torch.dtype, options: StepOptions) -> tuple[float, ...] | None:
    """The numbers of the PI controller, its old error first; None where it is another."""
    T = np.float32 if dtype is torch.float32 else np.float64
    own, orders = method.constants(options.beta2), (method.order, method.adaptive_order)
    pi = control(T, options.controller, own, options.constants, *orders)
    return (float(pi.old_error), *pi.numbers()) if isinstance(pi, PIControl) else None


def _solved(
    f: RightHandSide,
    step: TensorSolve,
    problem: Problem,
    pi: Sequence[float],
    u0: torch.Tensor,
    times: Sequence[float],
    keep: Keep,
) -> Trajectory | None:
    steps, tableau = problem.compiled, step.tableau
    assert steps is not None
    t, t_end = problem.tspan
    old_error, *control = pi
    fixed = t_end, _dtmax(problem, u0.dtype), problem.abstol, problem.reltol, math.sqrt(u0.numel()), *control
    dt, u, keeping = problem.dt, u0, keep.states == "all" or keep.sample is not None
    trajectory, every = Trajectory(), list[torch.Tensor]()
    inside = inner(times, problem)
    asked, of_tableau, outputs = padded(inside, problem), of_output(tableau), {t: u0}
    key = known(step.f, u0, asked)
    while t != t_end:
        function = one_call(steps, step, "solve", dt is None, keeping, bool(inside))
        left = problem.maxiters - trajectory.naccept - trajectory.nreject
        numbers = torch.from_numpy(np.array((t, dt or 0.0, old_error, not trajectory.t, left, *fixed)))
        start = t
        told, u, end, *kept = function(key, (step,), step.of_method, numbers, of_tableau, asked, u)
        naccept, nreject, t, dt, old_error, total, *rows = told.tolist()
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
            passed = zip(inside, kept[1].unbind(), strict=False)
            outputs |= {time: x for time, x in passed if start < time <= t or t <= time < start}
    chosen: Iterable[int] = range(trajectory.naccept) if keep.states == "all" else ()
    if keep.sample is not None:
        for i in range(trajectory.naccept):
            keep.sample.offer(i, trajectory.estimate("error", i))
        chosen = {*chosen, *keep.sample.weights}
    trajectory.u = {i: every[i] for i in chosen} | {trajectory.naccept: u}
    trajectory.outputs = [end if time == t_end else outputs[time].clone() for time in times]
    if keep.restarts:
        trajectory.saved = dict(zip(times, trajectory.outputs, strict=True))
    tried = trajectory.naccept + trajectory.nreject
    f.nfe += tried * (tableau.stages - tableau.fsal) + tableau.fsal + 2 * (problem.dt is None)
    trajectory.calls, trajectory.nf = f.calls, f.nfe
    return trajectory


def _dtmax(problem: Problem, dtype: torch.dtype) -> float:
    if problem.steps.dtmax is not None:
        return problem.steps.dtmax
    start, end = problem.tspan
    return float(abs(np.float32(end) - np.float32(start))) if dtype is torch.float32 else abs(end - start)
