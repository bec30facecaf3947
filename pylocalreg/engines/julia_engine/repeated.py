"""A solve without gradient that is made again and again: one call of Julia, arrays by their addresses."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pylocalreg.engines.base import Problem, Repeat
from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.failures import translated
from pylocalreg.engines.julia_engine.problems import begin, is_kept
from pylocalreg.engines.julia_engine.solves import breathe
from pylocalreg.solution import Stats, Steps


def repeat(problem: Problem, u0: torch.Tensor, times: Sequence[float], stacked: bool) -> Repeat | None:
    """Of layers without statistics, on the CPU, and without a bar."""
    if not is_kept(problem, u0) or problem.progress:
        return None
    return _Repeat(problem, u0, times, stacked)


class _Repeat:
    def __init__(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], stacked: bool) -> None:
        self.times = list(times)
        self.begun = self._begin(problem, u0)
        self.shape = (len(times), *u0.shape) if stacked else u0.shape

    def _begin(self, problem: Problem, u0: torch.Tensor) -> tuple[Problem, Any]:
        self.julia, _, handle = begin(problem, u0)
        return problem, self.julia.call("repeated", handle, plain(u0), self.times, breathe)

    def __call__(
        self, u0: torch.Tensor, dt: float | None
    ) -> tuple[torch.Tensor, Stats, Steps, Callable[[], Any]]:
        problem, solve = self.begun
        if dt != problem.dt:
            problem, solve = self.begun = self._begin(dataclasses.replace(problem, dt=dt), u0)
        julia = self.julia
        if u0.is_neg() or not u0.is_contiguous():
            u0 = plain(u0)
        u = u0.new_empty(self.shape)
        try:
            record, nreject, nf, nfe, run = julia.apply(solve, (u0.data_ptr(), u.data_ptr()))
        except julia.juliacall.JuliaError as error:
            known = translated(julia, problem, error)
            if known is None:
                raise
            raise known from error
        steps = Steps(record)
        stats = Stats(nfe, len(steps), nreject, nf)
        return u, stats, steps, functools.partial(julia.call, "repeated_solution", run)
