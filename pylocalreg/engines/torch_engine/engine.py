"""The embedded engine: the contract of engines/base.py in PyTorch."""

from collections.abc import Sequence

import numpy as np
import torch

from pylocalreg.engines.base import Adjoint, Gradient, Keep, Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.dense_output import trajectory_at
from pylocalreg.engines.torch_engine.explicit_rk import embedded_error
from pylocalreg.engines.torch_engine.initial_step import initial_step
from pylocalreg.engines.torch_engine.integrate import SCALARS, integrate
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError


class TorchEngine:
    """Solves in the process, on the state's own device, step for step as the SciML stack does."""

    name = "torch"

    def check(self, solver: str, adjoint: str) -> None:
        if solver not in TABLEAUS:
            raise OptionError(f"solver {solver!r} is not in the embedded engine: it has {sorted(TABLEAUS)}")
        if adjoint not in ADJOINTS:
            raise OptionError(f"adjoint {adjoint!r} is not in the embedded engine: it has {sorted(ADJOINTS)}")

    def keep_for(self, adjoint: Adjoint) -> Keep:
        return "states" if adjoint == "discrete" else "stages"

    def solve(self, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep) -> Trajectory:
        return integrate(RightHandSide(problem.f), problem, u0, times, keep)

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        return trajectory_at(TABLEAUS[problem.solver], trajectory, time)

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        step: StepCotangent | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        with torch.no_grad():
            return ADJOINTS[adjoint](problem, trajectory, cotangents, step)

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, int]:
        f = RightHandSide(problem.f)
        T = SCALARS[u.dtype]
        order = TABLEAUS[problem.solver].order
        with torch.no_grad(), np.errstate(all="ignore"):
            dt = initial_step(f, T(t), T(problem.tspan[1]), u, order, problem.abstol, problem.reltol)
        return float(dt), f.nfe

    def local_error(
        self, problem: Problem, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, int]:
        f = RightHandSide(problem.f)
        EEst = embedded_error(
            f, TABLEAUS[problem.solver], t, u, dt, problem.abstol, problem.reltol, gradient == "frozen"
        )
        return EEst * abs(dt), f.nfe
