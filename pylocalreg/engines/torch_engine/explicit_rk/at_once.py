"""Solves of small states in one compiled call: beside their steps Python's time between them is long."""

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch

from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.dynamics import LayerDynamics, is_described
from pylocalreg.engines.base import Keep, Problem, StepOptions, Trajectory
from pylocalreg.engines.torch_engine.controller import PIControl, control
from pylocalreg.engines.torch_engine.explicit_rk.compiled import GRAPHS, equal_but_for_rounding
from pylocalreg.engines.torch_engine.explicit_rk.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.tensor_solve import STEPS, TensorSolve
from pylocalreg.engines.torch_engine.functional import Functional, NotFunctionalError, functional
from pylocalreg.engines.torch_engine.inductor import AcrossSolves, fused
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide

T = TypeVar("T")

SMALL = 512
"""Elements of a state up to which the record of a step, which is copied with it, is no matter."""
ROWS = 16
"""A call that reverses steps has room for a multiple of these, so that most calls are of one shape."""


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
    if steps is None or steps.refused(what) or not _done_here(problem, u0, times, keep):
        return None
    pi = _pi(method, u0.dtype, problem.steps)
    if pi is None:
        return None
    with torch.no_grad():
        return _unless_refused(
            f, method, problem, what, lambda step: _solved(f, step, problem, pi, u0, times, keep)
        )


def _unless_refused(
    f: RightHandSide, method: ExplicitRK, problem: Problem, what: str, call: Callable[[TensorSolve], T | None]
) -> T | None:
    """What ``call`` gives; None where the dynamics are no function, or can not be compiled so."""
    assert problem.compiled is not None
    try:
        step = TensorSolve(functional(f.f, problem.params), method.tableau)
    except NotFunctionalError:
        return None
    try:
        return call(step)
    except Exception as error:  # whatever a compiler finds: it may take steps one by one
        problem.compiled.refuse(what, error, quietly=True)
        return None


def _is_small(u: torch.Tensor) -> bool:
    return u.device.type == "cpu" and u.device.type not in GRAPHS and 0 < u.numel() <= SMALL


def _done_here(problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep) -> bool:
    options = problem.steps
    return (
        _is_small(u0)
        and u0.is_contiguous()
        and problem.adaptive
        and not (options.dtmin or options.tstops or options.landing != "cut")
        and keep.states in ("all", "end")
        and not (keep.stages or keep.stiffness)
        and all(time in problem.tspan for time in times)
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
    known = _known(step.f, u0)
    while t != t_end:
        first = dt is None, keeping
        function = _function(steps, step, "solve", *first)
        left = problem.maxiters - trajectory.naccept - trajectory.nreject
        numbers = np.array((t, dt or 0.0, old_error, not trajectory.t, left, *fixed))
        told, u, end, states = function(known, (step,), step.of_method, torch.from_numpy(numbers), u)
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
            every += states.unbind()[:count]
    kept: Iterable[int] = range(trajectory.naccept) if keep.states == "all" else ()
    if keep.sample is not None:
        for i in range(trajectory.naccept):
            keep.sample.offer(i, trajectory.estimate("error", i))
        kept = {*kept, *keep.sample.weights}
    trajectory.u = {i: every[i] for i in kept} | {trajectory.naccept: u}
    trajectory.outputs = [end if time == t_end else u0.clone() for time in times]
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


def reversed_at_once(
    f: RightHandSide,
    method: ExplicitRK,
    problem: Problem,
    trajectory: Trajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
) -> tuple[torch.Tensor, list[torch.Tensor | None]] | None:
    """The gradients that `discrete` gives where it is asked for those of states at the ends of the span, or
    None, as `solved_at_once`.
    """
    steps, what = problem.compiled, f"the adjoint of solves by {method.name} at once"
    if steps is None or steps.refused(what) or not _reversed_here(problem, trajectory, cotangents):
        return None
    return _unless_refused(
        f, method, problem, what, lambda step: _reversed(f, step, problem, trajectory, cotangents)
    )


def _reversed_here(
    problem: Problem, trajectory: Trajectory, cotangents: Sequence[tuple[float, torch.Tensor]]
) -> bool:
    return (
        _is_small(trajectory.u[trajectory.naccept])
        and len(trajectory.u) == trajectory.naccept + 1
        and all(u.is_contiguous() for u in trajectory.u.values())
        and trajectory.ended is None
        and not problem.steps.tstops
        and bool(cotangents)
        and cotangents[-1][0] == problem.tspan[1]
        and all(time in problem.tspan for time, _ in cotangents)
    )


def _reversed(
    f: RightHandSide,
    step: TensorSolve,
    problem: Problem,
    trajectory: Trajectory,
    cotangents: Sequence[tuple[float, torch.Tensor]],
) -> tuple[torch.Tensor, list[torch.Tensor | None]] | None:
    steps, name, count = problem.compiled, step.tableau.name, trajectory.naccept
    assert steps is not None
    function = _function(steps, step, "reverse_solve")
    taken = [*range(count), *[0] * (-count % ROWS)]
    rows = np.array([(trajectory.t[i], trajectory.dt[i]) for i in taken])
    states = torch.stack([trajectory.u[i] for i in taken])
    (_, by_end), *others = reversed(cotangents)
    by_end = by_end.contiguous()

    def compared() -> frozenset[int]:
        """Which parameters a solve depends on: see `CompiledReplay`."""
        plain, adjoint = ExplicitRKReplay(f, step.tableau, problem, trajectory), by_end.clone()
        for i in reversed(range(count)):
            given = plain.reverse(i, trajectory.u[i], adjoint, (), None)
            assert given is not None
            adjoint = given
        right = [adjoint, *plain.grad_params.tensors]
        if not equal_but_for_rounding(gradients, right):
            raise RuntimeError("what it gives is not the adjoint of plain steps")
        return frozenset(i for i, gradient in enumerate(right[1:]) if gradient is not None)

    known = _known(step.f, states)
    gradients = function(
        known,
        (step, step.f.own),
        step.of_method,
        torch.tensor(count),
        torch.from_numpy(rows),
        states,
        by_end,
    )
    used = steps.get(("reverse_solve", name, "used", step.f.names), compared)
    by_u0, *by_params = gradients
    for _, cotangent in others:
        by_u0.add_(cotangent)
    return by_u0, [x if i in used else None for i, x in enumerate(by_params)]


def _function(steps: CompiledSteps, step: TensorSolve, method: str, *first: bool) -> AcrossSolves:
    key = step.tableau.name, step.f.hooks, method, *first
    return steps.get(key, lambda: AcrossSolves(fused(method, *first)))


def _known(f: Functional, u: torch.Tensor) -> Hashable:
    """What a compiled function of layers alone depends on, and the state's shape; None for other dynamics."""
    layers = f.module
    if not is_described(layers) or layers._buffers or torch._C._len_torch_function_stack():
        return None
    assert isinstance(layers, LayerDynamics)
    p = layers.p
    of_p = id(p), p.shape, p.dtype, p.stride(), p.requires_grad
    return of_p, layers.description, tuple(vars(layers)), u.shape, u.dtype, torch.get_num_threads()
