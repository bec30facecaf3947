"""The embedded engine: the contract of engines/base.py in PyTorch."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pylocalreg.engines.base import (
    Adjoint,
    Calls,
    Gradient,
    Jacobian,
    Keep,
    Problem,
    Quantity,
    Repeat,
    StepAsked,
    StepCotangent,
    Trajectory,
    Watch,
)
from pylocalreg.engines.methods import check_estimate, check_options, is_stochastic, keep_for
from pylocalreg.engines.torch_engine.adjoints import pull_back
from pylocalreg.engines.torch_engine.adjoints.retaken import retaken
from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.explicit_rk.again_at_once import Told, again_at_once, told_of
from pylocalreg.engines.torch_engine.explicit_rk.at_once import solved_at_once
from pylocalreg.engines.torch_engine.initial_step import initial_step
from pylocalreg.engines.torch_engine.integrate import SCALARS, integrate
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.one_sided import on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock import Rosenbrock
from pylocalreg.errors import DoubleBackwardError
from pylocalreg.precision import full_precision
from pylocalreg.progress import following
from pylocalreg.solution import Stats, Steps


class TorchEngine:
    """Solves in the process, on the state's own device, step for step as the SciML stack does."""

    name = "torch"

    def check(
        self,
        solver: str,
        adjoint: str,
        adaptive: bool | None = None,
        checkpoints: int | None = None,
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
    ) -> bool:
        return check_options("embedded engine", solver, adjoint, adaptive, checkpoints, jacobian, stochastic)

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        check_estimate(solver, quantity)

    def is_stochastic(self, solver: str) -> bool:
        return is_stochastic(solver)

    def keep_for(self, problem: Problem, adjoint: Adjoint, checkpoints: int | None) -> Keep:
        return keep_for(adjoint, checkpoints)

    def solve(
        self,
        problem: Problem,
        u0: torch.Tensor,
        times: Sequence[float],
        keep: Keep,
        watch: Watch | None = None,
    ) -> Trajectory:
        f = RightHandSide.of(problem)
        with following(problem) as update:
            method = _solving_at_once(problem.solver)
            if method is not None and watch is None and update is None:
                trajectory = solved_at_once(f, method, problem, u0, times, keep)
                if trajectory is not None:
                    return trajectory
            on_step = None if update is None else lambda _, end, __: update(end, f.nfe)
            return integrate(f, problem, u0, times, keep, on_step, watch)

    def repeat(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], stacked: bool) -> Repeat:
        method = _solving_at_once(problem.solver)
        at_once: Callable[[torch.Tensor, float | None], Told | None] | None = None
        if method is not None and not problem.progress:
            at_once = again_at_once(RightHandSide.of(problem), method, problem, u0, times, stacked)

        def again(u0: torch.Tensor, dt: float | None) -> tuple[torch.Tensor, Stats, Steps, None]:
            with full_precision(u0.device):
                u0 = u0.detach().contiguous()
                told = None if at_once is None else at_once(u0, dt)
                if told is None:
                    with_dt = problem if dt == problem.dt else dataclasses.replace(problem, dt=dt)
                    told = told_of(self.solve(with_dt, u0, times, Keep()), stacked)
            return *told, None

        return again

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        i = trajectory.step_at(time)
        method = METHODS[problem.solver]
        return method.dense_output(trajectory.t[i], trajectory.u[i], trajectory.dt[i], trajectory.k[i], time)

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        with torch.no_grad():
            return pull_back(problem, trajectory, adjoint, cotangents, steps)

    def retake(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        u0: torch.Tensor,
        times: Sequence[float],
        steps: Sequence[StepAsked],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if adjoint != "discrete":
            raise DoubleBackwardError(
                f"adjoint={adjoint!r} gives first derivatives only: for second ones take adjoint='discrete', "
                "or differentiate local_error, which has derivatives of every order"
            )
        return retaken(problem, trajectory, u0, times, steps)

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
        f = RightHandSide.of(problem)
        with torch.no_grad(), np.errstate(all="ignore"):
            dt = initial_step(f, problem, METHODS[problem.solver].order, SCALARS[u.dtype](t), u)
        return float(dt), f.calls

    def estimate(
        self, problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, Calls]:
        f = RightHandSide.of(problem)
        with on_side(f.f, t, dt):
            value = METHODS[problem.solver].estimate(f, quantity, t, u, dt, problem, gradient)
        return value, f.calls


def _solving_at_once(solver: str) -> ExplicitRK | Rosenbrock | None:
    """The method, where its solves can be made in one call."""
    method = METHODS[solver]
    return method if isinstance(method, ExplicitRK | Rosenbrock) else None
