"""The embedded engine: the contract of engines/base.py in PyTorch."""

from collections.abc import Sequence

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
    StepCotangent,
    Trajectory,
)
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS, pull_back
from pylocalreg.engines.torch_engine.initial_step import initial_step
from pylocalreg.engines.torch_engine.integrate import SCALARS, integrate
from pylocalreg.engines.torch_engine.methods import METHODS, ODE_METHODS, SDE_METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.errors import OptionError


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
        methods, others = (SDE_METHODS, ODE_METHODS) if stochastic else (ODE_METHODS, SDE_METHODS)
        kind, other = ("SDE", "ODE") if stochastic else ("ODE", "SDE")
        if solver in others:
            raise OptionError(
                f"solver {solver!r} solves {other}s: take Neural{other}, or one of {sorted(methods)}"
            )
        if solver not in methods:
            raise OptionError(
                f"solver {solver!r} is not in the embedded engine: for {kind}s it has {sorted(methods)}"
            )
        if adjoint not in ADJOINTS:
            raise OptionError(f"adjoint {adjoint!r} is not in the embedded engine: it has {sorted(ADJOINTS)}")
        method = METHODS[solver]
        has_estimate = "error" in method.estimates
        if adaptive and not has_estimate:
            raise OptionError(
                f"adaptive=True: {solver} has no error estimate to choose its steps by; give dt and leave "
                "adaptive out"
            )
        if checkpoints is not None and not method.one_step and adjoint != "backsolve":
            raise OptionError(
                f"checkpoints = {checkpoints}: a step of {solver} depends on the steps before it and can not "
                f"be taken again from a checkpoint, as adjoint={adjoint!r} would; leave checkpoints out"
            )
        if jacobian not in (None, "system", "per_sample"):
            raise OptionError(f"jacobian={jacobian!r} does not exist: choose 'system' or 'per_sample'")
        if jacobian is not None and not method.takes_jacobian:
            able = sorted(name for name, other in METHODS.items() if other.takes_jacobian)
            raise OptionError(
                f"jacobian={jacobian!r}: {solver} takes no Jacobian; leave it out, or choose a "
                f"solver of {able}"
            )
        return has_estimate if adaptive is None else adaptive

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        if quantity not in METHODS[solver].estimates:
            methods = SDE_METHODS if self.is_stochastic(solver) else ODE_METHODS
            able = sorted(name for name, method in methods.items() if quantity in method.estimates)
            raise OptionError(f"{solver} has no {quantity} estimate: the methods that have one are {able}")

    def is_stochastic(self, solver: str) -> bool:
        return solver in SDE_METHODS

    def keep_for(self, adjoint: Adjoint, checkpoints: int | None) -> Keep:
        if checkpoints is not None:
            return Keep(checkpoints)
        if adjoint == "backsolve":
            return Keep("end")
        return Keep("all", stages=adjoint != "discrete")

    def solve(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep) -> Trajectory:
        return integrate(RightHandSide.of(problem), problem, u0, times, keep)

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

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
        f = RightHandSide.of(problem)
        T = SCALARS[u.dtype]
        order = METHODS[problem.solver].order
        with torch.no_grad(), np.errstate(all="ignore"):
            dt = initial_step(f, T(t), T(problem.tspan[1]), u, order, problem.abstol, problem.reltol)
        return float(dt), f.calls

    def estimate(
        self, problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, Calls]:
        f = RightHandSide.of(problem)
        value = METHODS[problem.solver].estimate(f, quantity, t, u, dt, problem, gradient)
        return value, f.calls
