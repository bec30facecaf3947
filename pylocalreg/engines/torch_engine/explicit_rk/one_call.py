"""One compiled call for all steps of a small state: beside them Python's time between them is long."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch

from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.explicit_rk.compiled import GRAPHS
from pylocalreg.engines.torch_engine.explicit_rk.tensor_loop import TensorLoop
from pylocalreg.engines.torch_engine.functional import Functional
from pylocalreg.engines.torch_engine.inductor import AcrossSolves, fused

T = TypeVar("T")

SMALL = 512
"""Elements of a state up to which the record of a step, which is copied with it, is no matter."""
TIMES = 128
"""Asked times up to which it is no matter that each step looks at all of them."""
ROWS = 16
"""A call has room for a multiple of these, times or steps to reverse, so that most are of one shape."""


def is_small(u: torch.Tensor) -> bool:
    return u.device.type == "cpu" and u.device.type not in GRAPHS and 0 < u.numel() <= SMALL


def inner(times: Iterable[float], problem: Problem) -> list[float]:
    """Those between the ends of the span."""
    return [time for time in times if time not in problem.tspan]


def has_outputs(step: TensorLoop, inner: Sequence[object]) -> bool:
    """Whether a step's own stages give the states at these times, and there are not too many."""
    return not inner or (len(inner) <= TIMES and len(step.of_output) > 0)


def padded(inner: Sequence[float], problem: Problem) -> torch.Tensor:
    """Filled up with the start of the span, which no step passes."""
    start = problem.tspan[0]
    return torch.tensor([*inner, *[start] * (-len(inner) % ROWS)], dtype=torch.float64, device="cpu")


def quietly(steps: CompiledSteps, what: str, call: Callable[[], T]) -> T | None:
    """What ``call`` gives; None, now and ever after, where it raises."""
    if steps.refused(what):
        return None
    try:
        return call()
    except Exception as error:  # whatever a compiler finds: it may take steps one by one
        steps.refuse(what, error, quietly=True)
        return None


def one_call(steps: CompiledSteps, step: TensorLoop, method: str, *first: Hashable) -> AcrossSolves:
    """A method of ``step``, given ``first``."""
    key = step.name, step.f.hooks, method, *first
    return steps.get(key, lambda: AcrossSolves(fused(method, *first, loops=True)))


def known(f: Functional, u: torch.Tensor, times: torch.Tensor) -> Hashable:
    """As `Functional.known`, with the shapes."""
    of_f = f.known
    return None if of_f is None else (of_f, u.shape, u.dtype, len(times))
