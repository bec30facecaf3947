"""The contract of engines/base.py, kept by Julia."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pylocalreg.dynamics import LayerDynamics, WithInputs
from pylocalreg.engines.algorithm import Sensitivity
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
from pylocalreg.engines.julia_engine import gradients, solves
from pylocalreg.engines.julia_engine.repeated import repeat
from pylocalreg.engines.julia_engine.stack import formula_of, sensitivity_of, stack_algorithm
from pylocalreg.engines.julia_engine.start import start, why_unavailable
from pylocalreg.engines.methods import (
    ADJOINTS,
    METHODS,
    REGISTERED,
    SDE_METHODS,
    check_choices,
    check_estimate,
    check_options,
    choose_adaptive,
    is_stochastic,
    keep_for,
)
from pylocalreg.errors import DoubleBackwardError, EngineUnavailableError, OptionError


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
        if solver in REGISTERED:
            raise OptionError(
                f"solver {solver!r} was registered as a tableau, which the embedded engine alone steps by: "
                "take engine='torch'"
            )
        if isinstance(adjoint, Sensitivity):
            sensitivity_of(start(), adjoint)
        named = "interpolating" if isinstance(adjoint, Sensitivity) else adjoint
        if solver in METHODS or not isinstance(solver, str):
            adaptive = check_options(
                "Julia engine", solver, named, adaptive, checkpoints, jacobian, stochastic
            )
        else:
            adaptive = self._check_algorithm(solver, named, adaptive, jacobian, stochastic)
        if checkpoints is not None and isinstance(adjoint, Sensitivity):
            raise OptionError(
                f"checkpoints = {checkpoints}: they go with the adjoints {sorted(ADJOINTS)}; leave them out "
                f"with adjoint={str(adjoint)!r}"
            )
        return adaptive

    def _check_algorithm(
        self, solver: str, adjoint: str, adaptive: bool | None, jacobian: Jacobian | None, stochastic: bool
    ) -> bool:
        """As `check`, of an algorithm that the stack alone has."""
        check_choices("Julia engine", adjoint, jacobian)
        julia = start()
        algorithm = stack_algorithm(julia, solver)
        if algorithm.stochastic != stochastic:
            kind, other = ("ODE", "SDE") if stochastic else ("SDE", "ODE")
            raise OptionError(f"solver {solver!r} solves {kind}s: take Neural{kind}, or a solver of {other}s")
        if adjoint == "discrete" and not stochastic and not formula_of(julia, solver).dense:
            raise OptionError(
                f"adjoint='discrete': {solver}'s steps can not be taken again one by one (they are no "
                "explicit, Rosenbrock or diagonally implicit Runge-Kutta steps that its coefficients alone "
                "make); take adjoint='interpolating' or 'gauss'"
            )
        adaptive = choose_adaptive(solver, adaptive, algorithm.adaptive)
        if jacobian is not None and not algorithm.implicit:
            raise OptionError(f"jacobian={jacobian!r}: {solver} takes no Jacobian; leave it out")
        return adaptive

    def check_estimate(self, solver: str, quantity: Quantity) -> None:
        if solver in METHODS:
            return check_estimate(solver, quantity)
        julia = start()
        if quantity == "error" and stack_algorithm(julia, solver).adaptive:
            if formula_of(julia, solver).handle is not None:
                return None
            reason = f"no gradient of the error estimate of {solver}'s steps is known"
        else:
            reason = f"{solver} has no {quantity} estimate"
        raise OptionError(
            f"{reason}: LocalRegularizer(estimator='Tsit5') takes that of a step of another method in its "
            "place, from the same state and of the same size"
        )

    def is_stochastic(self, solver: str) -> bool:
        return is_stochastic(solver) if solver in METHODS else stack_algorithm(start(), solver).stochastic

    def keep_for(self, problem: Problem, adjoint: Adjoint, checkpoints: int | None) -> Keep:
        solver = problem.solver
        if solver not in METHODS and self.is_stochastic(solver):
            raise OptionError(
                f"solver {solver!r}: of SDEs the Julia engine has gradients of {sorted(SDE_METHODS)}; take "
                "one of these, or solve under torch.no_grad()"
            )
        if isinstance(adjoint, Sensitivity):
            return _keep_for_sensitivity(problem, adjoint)
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

    def repeat(
        self, problem: Problem, u0: torch.Tensor, times: Sequence[float], stacked: bool
    ) -> Repeat | None:
        return repeat(problem, u0, times, stacked)

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


def _keep_for_sensitivity(problem: Problem, adjoint: Sensitivity) -> Keep:
    f = problem.f.f if isinstance(problem.f, WithInputs) else problem.f
    if adjoint.traces and not isinstance(f, LayerDynamics):
        raise OptionError(
            f"adjoint={str(adjoint)!r} traces the dynamics in Julia, which a PyTorch function can not be: "
            "give them as layers, or take autojacvec='ZygoteVJP', which pulls them back by PyTorch"
        )
    if adjoint.name == "ForwardDiffSensitivity":
        return Keep("end")
    if adjoint.name == "BacksolveAdjoint":
        return Keep("end", restarts=True)
    return Keep("all", stages=True)
