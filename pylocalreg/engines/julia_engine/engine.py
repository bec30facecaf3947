"""The contract of engines/base.py, kept by Julia."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pylocalreg.engines.base import (
    Adjoint,
    Calls,
    Gradient,
    Jacobian,
    Keep,
    Problem,
    Quantity,
    StepAsked,
    StepCotangent,
    Trajectory,
    Watch,
)
from pylocalreg.engines.julia_engine import gradients, solves
from pylocalreg.engines.julia_engine.start import why_unavailable
from pylocalreg.engines.julia_engine.tableaus import has_tableau
from pylocalreg.engines.methods import check_estimate, check_options, is_stochastic, keep_for
from pylocalreg.errors import DoubleBackwardError, EngineUnavailableError, OptionError

CHECKPOINTED = ("backsolve", "discrete", "interpolating")


class JuliaEngine:
    """Solves by the SciML stack: OrdinaryDiffEq, StochasticDiffEq and SciMLSensitivity, in this process."""

    name = "julia"

    def __init__(self) -> None:
        reason = why_unavailable()
        if reason is not None:
            raise EngineUnavailableError(f"engine='julia': {reason}")

    def check(
        self,
        solver: str,
        adjoint: str,
        adaptive: bool | None = None,
        checkpoints: int | None = None,
        jacobian: Jacobian | None = None,
        stochastic: bool = False,
    ) -> bool:
        adaptive = check_options("Julia engine", solver, adjoint, adaptive, checkpoints, jacobian, stochastic)
        if adjoint == "discrete" and not has_tableau(solver):
            raise OptionError(
                f"adjoint='discrete': the Julia engine reverses explicit Runge-Kutta, Adams and SDEs' steps, "
                f"not {solver}'s; take adjoint='interpolating', or engine='torch'"
            )
        if checkpoints is not None and adjoint not in CHECKPOINTED:
            raise OptionError(
                f"checkpoints = {checkpoints}: in the Julia engine the adjoints {list(CHECKPOINTED)} have "
                f"them, adjoint={adjoint!r} has not; leave checkpoints out, or take engine='torch'"
            )
        if jacobian == "per_sample":
            raise OptionError(
                "jacobian='per_sample': the Julia engine's Jacobian is that of the whole state; take "
                "jacobian='system', or engine='torch'"
            )
        return adaptive

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        check_estimate(solver, quantity)
        if not has_tableau(solver):
            raise OptionError(
                f"{solver}: the Julia engine takes the estimates of explicit Runge-Kutta, Adams and SDEs' "
                "steps; take one of these solvers, or engine='torch'"
            )

    def is_stochastic(self, solver: str) -> bool:
        return is_stochastic(solver)

    def keep_for(self, adjoint: Adjoint, checkpoints: int | None) -> Keep:
        keep = keep_for(adjoint, checkpoints)
        # a continuous adjoint's checkpoints are the stack's own
        return keep if checkpoints is None else replace(keep, stages=adjoint != "discrete")

    def solve(
        self,
        problem: Problem,
        u0: torch.Tensor,
        times: Sequence[float],
        keep: Keep,
        watch: Watch | None = None,
    ) -> Trajectory:
        return solves.solve(problem, u0, times, keep, watch)

    def interpolate(self, problem: Problem, trajectory: Trajectory, time: float) -> torch.Tensor:
        assert isinstance(trajectory, solves.JuliaTrajectory)
        return solves.interpolate(problem, trajectory, time)

    def pull_back(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        cotangents: Sequence[tuple[float, torch.Tensor]],
        steps: Sequence[StepCotangent],
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        assert isinstance(trajectory, solves.JuliaTrajectory)
        return gradients.pull_back(problem, trajectory, adjoint, cotangents, steps)

    def retake(
        self,
        problem: Problem,
        trajectory: Trajectory,
        adjoint: Adjoint,
        u0: torch.Tensor,
        times: Sequence[float],
        steps: Sequence[StepAsked],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        raise DoubleBackwardError(
            "the Julia engine gives first derivatives only: for second ones take engine='torch' with "
            "adjoint='discrete', or differentiate local_error, which has derivatives of every order"
        )

    def initial_step(self, problem: Problem, t: float, u: torch.Tensor) -> tuple[float, Calls]:
        return solves.initial_step(problem, t, u)

    def estimate(
        self, problem: Problem, quantity: Quantity, t: float, u: torch.Tensor, dt: float, gradient: Gradient
    ) -> tuple[torch.Tensor, Calls]:
        return gradients.estimate(problem, quantity, t, u, dt, gradient)
