"""A stochastic tableau as a method: what the time loop and the adjoints ask of it."""

import numpy as np
import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity, Trajectory
from pylocalreg.engines.torch_engine.controller import Constants, usual_betas
from pylocalreg.engines.torch_engine.method import Record
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.sde.replay import StochasticRKReplay
from pylocalreg.engines.torch_engine.sde.retake import StochasticRKRetake
from pylocalreg.engines.torch_engine.sde.step import (
    Stages,
    error_estimate,
    estimate,
    evaluate,
    integrals_of,
    take,
)
from pylocalreg.engines.torch_engine.sde.tableau import StochasticTableau

QMAX = 9 / 8  # steps of SDEs grow slowly: a longer step sees noise that the last one did not


class StochasticRK:
    """A stochastic Runge-Kutta method."""

    one_step = True
    takes_jacobian = False

    def __init__(self, tableau: StochasticTableau) -> None:
        self.tableau = tableau
        self.name, self.order = tableau.name, tableau.order
        self.adaptive_order = tableau.order - 1 / 2  # so that EEst goes with dt^(order + 1/2)
        has: dict[Quantity, bool] = {"error": bool(tableau.error_drift), "stiffness": tableau.stiffness}
        self.estimates = frozenset(quantity for quantity, there in has.items() if there)

    def constants(self, beta2: float | None) -> Constants:
        return Constants(*usual_betas(self.order), qmax=QMAX)

    def stepper(self, f: RightHandSide, u0: torch.Tensor, problem: Problem) -> "StochasticRKStepper":
        return StochasticRKStepper(f, self.tableau, u0, problem)

    def dense_output(self, t: float, u: torch.Tensor, dt: float, record: Record, time: float) -> torch.Tensor:
        return torch.lerp(u, record[0], (time - t) / dt)

    def replay(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> StochasticRKReplay:
        return StochasticRKReplay(f, self.tableau, problem, trajectory)

    def retake(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> StochasticRKRetake:
        return StochasticRKRetake(f, self.tableau, problem, trajectory)

    def estimate(
        self,
        f: RightHandSide,
        quantity: Quantity,
        t: float,
        u: torch.Tensor,
        dt: float,
        problem: Problem,
        gradient: Gradient,
    ) -> torch.Tensor:
        return estimate(take(f, self.tableau, problem, t, u, dt, gradient), quantity, problem)


class StochasticRKStepper:
    """Steps along the problem's Brownian path."""

    uncounted = 0

    def __init__(
        self, f: RightHandSide, tableau: StochasticTableau, u0: torch.Tensor, problem: Problem
    ) -> None:
        self.f, self.tableau, self.problem = f, tableau, problem
        self.stage = torch.empty_like(u0)

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        integrals = integrals_of(self.problem, u.dtype, t, dt)
        self.stages = stages = Stages(self.tableau, t, u, integrals)
        evaluate(self.f, stages, self.stage)
        self.u_new = u_new = stages.new_state(spare)
        if not self.tableau.error_drift:
            return u_new, np.nan
        return u_new, float(error_estimate(stages, u_new, self.problem))

    def accept(self) -> None:
        """A step begins with nothing but the state."""

    def reject(self) -> None:
        """The path remembers what was drawn."""

    def cross(self) -> None:
        """A step begins with nothing but the state."""

    def record(self) -> Record:
        return (self.u_new,)

    def memory(self) -> None:
        return None

    def interpolate(self, time: float) -> torch.Tensor:
        stages = self.stages
        return torch.lerp(stages.u, self.u_new, (time - stages.t) / stages.dt)

    def stiffness(self) -> float:
        return float(estimate(self.stages, "stiffness", self.problem))
