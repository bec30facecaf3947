"""A solve, what is read of it afterwards, and the automatic first step."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pylocalreg.dynamics import is_dense_chain
from pylocalreg.engines.base import Calls, Keep, Problem, Trajectory, Watch
from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.failures import inside
from pylocalreg.engines.julia_engine.models import Model
from pylocalreg.engines.julia_engine.problems import begin
from pylocalreg.engines.julia_engine.start import Julia, start
from pylocalreg.engines.torch_engine.explicit_rk import kept
from pylocalreg.errors import OptionError
from pylocalreg.progress import following


@dataclass
class JuliaTrajectory(Trajectory):
    """A trajectory whose states and dense output stay in Julia until they are asked for."""

    problem: Problem | None = None
    model: Model | None = None
    handle: Any = None
    run: Any = None
    checkpointed: bool = False


class _States(dict[int, torch.Tensor]):
    """The states steps start from, brought over when they are asked for."""

    def __init__(self, julia: Julia, run: Any) -> None:
        self._julia, self._run = julia, run

    def __missing__(self, index: int) -> torch.Tensor:
        state: torch.Tensor = self._julia.call("state", self._run, index)
        self[index] = state
        return state


def solve(
    problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep, watch: Watch | None = None
) -> Trajectory:
    bytes_kept = _bytes_kept(problem)
    julia, model, row = begin(problem, u0)
    spread, checkpoints = 0, list[float]()
    if not isinstance(keep.states, str):
        if keep.stages:
            first, last = problem.tspan
            checkpoints = [first + (last - first) * i / keep.states for i in range(keep.states + 1)]
        else:
            spread = keep.states
    trajectory = JuliaTrajectory(problem=problem, model=model, checkpointed=bool(checkpoints))
    offer = None
    if keep.sample is not None and not keep.stiffness:
        offer = _Offer(keep)
    with following(problem) as update, inside(julia, problem, u0.device):
        handle, run, t, dt, EEst, nreject, nf, calls, of_diffusion, outputs, ended, end, dt_next = julia.call(
            "solve",
            row,
            plain(u0),
            list(times),
            keep.states == "all" or keep.stiffness,
            spread,
            keep.stages and keep.states == "all",
            checkpoints,
            list(times) if keep.restarts else [],
            offer,
            bytes_kept,
            update or breathe,
            update is not None,
            None if watch is None else _Looks(watch, u0.shape),
        )
        trajectory.handle, trajectory.run = handle, run
        trajectory.sol = functools.partial(julia.call, "solution", run)
        if ended is not None:
            trajectory.ended, trajectory.whole_end, trajectory.proposed_dt = ended, float(end), float(dt_next)
        trajectory.t, trajectory.dt, trajectory.EEst = list(t), list(dt), list(EEst)
        trajectory.nreject = int(nreject)
        trajectory.nf, trajectory.calls = int(nf), Calls(int(calls), int(of_diffusion))
        trajectory.outputs = list(outputs)
        trajectory.u = _States(julia, run)
        if keep.stiffness:
            for i in range(trajectory.naccept):
                trajectory.stiffness.append(float(julia.call("stiffness", handle, run, i)))
                if keep.sample is not None:
                    keep.sample.offer(i, trajectory.stiffness[i])
    return trajectory


def _bytes_kept(problem: Problem) -> float | None:
    """How much the calls of f may keep for their pullbacks; None where they keep nothing."""
    if not problem.keep_stages:
        return None
    if not isinstance(problem.f, torch.nn.Module) or not is_dense_chain(problem.f):
        raise OptionError(
            f"keep_stages={problem.keep_stages!r}: {type(problem.f).__name__} is called back from Julia, "
            "which keeps the calls of Dense layers alone; leave it out, or take engine='torch'"
        )
    return kept.AUTO if problem.keep_stages == "auto" else math.inf


def interpolate(problem: Problem, trajectory: JuliaTrajectory, time: float) -> torch.Tensor:
    assert trajectory.model is not None
    julia = start()
    if problem.g is not None:  # linear between the states of the steps, as in the stack
        i = trajectory.step_at(time)
        u, u_new = trajectory.u[i], trajectory.u[i + 1]
        return torch.lerp(u, u_new, (time - trajectory.t[i]) / trajectory.dt[i])
    with inside(julia, problem, trajectory.model.p.device):
        at_time: torch.Tensor = julia.call("interpolate", trajectory.run, time)
    return at_time


def initial_step(problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
    julia, _, row = begin(problem, u, at=t)
    with inside(julia, problem, u.device):
        dt, nf, ng = julia.call("initial_step", row, plain(u))
    return float(dt), Calls(int(nf), int(ng))


def breathe() -> None:
    """Called once a millisecond in place of a bar: KeyboardInterrupt is raised here, other threads run."""


class _Looks:
    """A watch, told of each accepted step with states of the problem's shape."""

    def __init__(self, watch: Watch, shape: torch.Size) -> None:
        self.watch, self.shape = watch, shape

    def __call__(self, t: float, t_new: float, at: Callable[[float], torch.Tensor]) -> float | None:
        return self.watch(float(t), float(t_new), lambda time: at(time).view(self.shape))


class _Offer:
    """Tells the sample of each accepted step, and Julia which states to keep."""

    def __init__(self, keep: Keep) -> None:
        assert keep.sample is not None
        self.sample = keep.sample

    def __call__(self, index: int, t: float, dt: float, EEst: float) -> list[int] | None:
        if not self.sample.offer(index, EEst * abs(dt)):
            return None
        return list(self.sample.weights)
