"""Solves of one small problem, one after the other: one compiled call each, and little else.

What they share is made once. Beside some thirty calls of a small f Python's own time is long, and longer
still where other code ran in between.
"""

import math
from collections.abc import Callable, Hashable, Sequence

import torch

from pylocalreg.engines.base import Calls, Keep, Problem, Trajectory
from pylocalreg.engines.torch_engine.explicit_rk.at_once import AtOnce, Method, prepared
from pylocalreg.engines.torch_engine.explicit_rk.one_call import known, quietly
from pylocalreg.engines.torch_engine.explicit_rk.tensor_loop import STEPS
from pylocalreg.engines.torch_engine.inductor import AcrossSolves
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.solution import Stats, Steps

Told = tuple[torch.Tensor, Stats, Steps]


def told_of(trajectory: Trajectory, stacked: bool) -> Told:
    """What a `Repeat` gives of a solve."""
    u = torch.stack(trajectory.outputs) if stacked else trajectory.outputs[-1]
    return u, trajectory.stats(Calls()), trajectory.steps()


def again_at_once(
    f: RightHandSide,
    method: Method,
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    stacked: bool,
) -> Callable[[torch.Tensor, float | None], Told | None] | None:
    """As `Repeat`, or None where such solves are not made so. The layers that f calls, and their parameter,
    are at every call what they are now: who calls has looked.
    """
    at_once = prepared(f, method, problem, u0, times, Keep())
    return None if at_once is None else Again(at_once, stacked)


class Again:
    """Each attribute that changes is written whole: solves of two threads may be made at once."""

    def __init__(self, at_once: AtOnce, stacked: bool) -> None:
        self.at_once, self.stacked = at_once, stacked
        self.is_short = not stacked and list(at_once.times) == [at_once.problem.tspan[1]]
        """Whether it is one call, as far as is known."""
        self.known: tuple[Hashable, Hashable, dict[bool, AcrossSolves]] | None = None
        """What is around the layers, what the compiled functions go by, and these: of an automatic first
        step, and of another.
        """
        self.first: tuple[float | None, torch.Tensor] | None = None
        """The last first step, and the numbers of a call with it."""

    def __call__(self, u0: torch.Tensor, dt: float | None) -> Told | None:
        """None where it can not be compiled, or comes to no good end."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self(u0, dt)
        at_once = self.at_once
        if self.is_short:
            told = quietly(at_once.steps, at_once.what, lambda: self.in_one_call(u0, dt))
            if told is not None:
                return told
        trajectory = at_once.solve(u0, Keep(), dt)
        return None if trajectory is None else told_of(trajectory, self.stacked)

    def in_one_call(self, u0: torch.Tensor, dt: float | None) -> Told | None:
        at_once, step, problem = self.at_once, self.at_once.step, self.at_once.problem
        around, automatic, first = step.f.around, dt is None, self.first
        if around is None:
            return None
        if self.known is None or around != self.known[0]:
            self.known = around, known(step.f, u0, at_once.asked), {}
        _, key, functions = self.known
        function = functions.get(automatic)
        if function is None:
            function = functions[automatic] = at_once.function(dt, keeping=False)
        if first is None or first[0] != dt:
            numbers = at_once.numbers(problem.tspan[0], dt, True, problem.maxiters, at_once.memory)
            first = self.first = dt, numbers
        tensor, _, end = function(key, (step,), step.of_method, first[1], step.of_output, at_once.asked, u0)
        told = tensor.numpy()
        naccept, nreject, t, _, total = told[:5].tolist()
        naccept, nreject = int(naccept), int(nreject)
        if not math.isfinite(total) or t != problem.tspan[1]:
            self.is_short = naccept < STEPS
            return None
        rows = told[5 + len(at_once.memory) :].reshape(-1, 3)[:naccept]
        calls = at_once.calls(naccept, nreject, u0, automatic)
        return end, Stats(calls, naccept, nreject, calls), Steps(rows.T.tobytes())
