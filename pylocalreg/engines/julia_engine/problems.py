"""A problem in Julia: its models, its options, its method's coefficients and its path of noise."""

import functools
from dataclasses import dataclass
from operator import is_
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch

from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.base import Problem
from pylocalreg.engines.julia_engine.models import Model, model_of
from pylocalreg.engines.julia_engine.stack import solve_options_of, stack_algorithm
from pylocalreg.engines.julia_engine.start import Julia, start, why_no_cuda
from pylocalreg.engines.julia_engine.tableaus import needs_dZ, tableau_of
from pylocalreg.engines.methods import METHODS
from pylocalreg.errors import DeviceError


def begin(problem: Problem, u0: torch.Tensor, at: float | None = None) -> tuple[Julia, Model, Any]:
    """The problem in Julia, or a row that host/problems.jl makes one of; ``at`` is where it starts, if not
    with its span.
    """
    _check_device(u0.device, problem.solver)
    julia = start()
    path = None if problem.noise is None else _Increments(problem)
    dtype = str(u0.dtype).removeprefix("torch.")
    options = _options(
        julia,
        dtype,
        problem.solver,
        problem.tspan[0] if at is None else at,
        problem.tspan[1],
        problem.abstol,
        problem.reltol,
        problem.dt or 0.0,
        problem.adaptive,
        problem.maxiters,
        problem.steps,
        problem.solve_options,
    )
    tableau = tableau_of(julia, problem.solver, dtype)
    per_sample = problem.jacobian == "per_sample"
    model = model_of(julia, problem, u0)
    row = (model.f, model.g, model.p, per_sample, options, tableau, path)
    if at is None and is_kept(problem, u0):
        return julia, model, _prepared(julia, cast(LayerDynamics, problem.f), row)
    return julia, model, row


def is_kept(problem: Problem, u0: torch.Tensor) -> bool:
    """Whether the problem stays in Julia for the next solve."""
    f = problem.f
    return problem.g is None and u0.device.type == "cpu" and isinstance(f, LayerDynamics) and not f._buffers


@dataclass
class _Prepared:
    """A problem in Julia, and what it was made of."""

    row: tuple[Any, ...]
    address: int
    problem: Any


_of_layers: "WeakKeyDictionary[LayerDynamics, _Prepared]" = WeakKeyDictionary()


def _prepared(julia: Julia, f: LayerDynamics, row: tuple[Any, ...]) -> Any:
    """The problem of the row, the last one of these layers where it was made of the same and of parameters
    in the same memory, which it keeps from being anything else's.
    """
    last, address = _of_layers.get(f), row[2].data_ptr()
    if last is not None and last.address == address and all(map(is_, last.row, row[:2] + row[3:])):
        return last.problem
    handle = julia.call("problem", row)
    _of_layers[f] = _Prepared(row[:2] + row[3:], address, handle)
    return handle


@functools.lru_cache(maxsize=256)
def _options(julia: Julia, dtype: str, solver: str, *given: Any) -> Any:
    """Options in Julia, made once: a small solve takes hardly longer than they do."""
    *numbers, steps, solve_options = given
    of_steps = steps.dtmin or 0.0, steps.dtmax or 0.0, steps.tstops, tuple(steps.constants.items())
    algorithm = None if solver in METHODS else stack_algorithm(julia, solver).handle
    more = solve_options_of(julia, solve_options) if solve_options else None
    return julia.call("options", dtype, (str(solver), *numbers, *of_steps, algorithm, more))


def _check_device(device: torch.device, solver: str) -> None:
    if device.type == "cpu":
        return
    if device.type != "cuda":
        reason = "Julia solves on the CPU and on CUDA"
    elif solver not in METHODS or METHODS[solver].takes_jacobian:
        reason = f"{solver} solves on the CPU in Julia"
    elif (missing := why_no_cuda()) is not None:
        reason = missing
    else:
        return
    raise DeviceError(f"engine='julia', the state is on {device}: {reason}. engine='torch' solves there")


class _Increments:
    """What the problem's path does over a step, written into Julia's arrays."""

    def __init__(self, problem: Problem) -> None:
        assert problem.noise is not None
        self.noise, self.wants_dZ = problem.noise, needs_dZ(problem.solver)

    def __call__(self, dW: torch.Tensor, dZ: torch.Tensor, t: float, t_new: float) -> None:
        dW.copy_(self.noise.dW(t, t_new))
        if self.wants_dZ:
            dZ.copy_(self.noise.dZ(t, t_new))
