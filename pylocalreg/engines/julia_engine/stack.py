"""Algorithms of the stack that the engines do not share: made in Julia, and asked there what they are."""

import functools
from dataclasses import dataclass
from typing import Any

from pylocalreg.engines.algorithm import Algorithm, Sensitivity
from pylocalreg.engines.julia_engine.failures import refusing
from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.engines.packages import ELSEWHERE, WRONG
from pylocalreg.errors import OptionError


@dataclass(frozen=True)
class StackAlgorithm:
    """An algorithm in Julia.

    Attributes:
        stochastic: whether it solves SDEs.
        implicit: whether its steps take the Jacobian of the dynamics.
        adaptive: whether it estimates its error, to choose its steps.
    """

    handle: Any
    stochastic: bool
    implicit: bool
    adaptive: bool


@dataclass(frozen=True)
class Formula:
    """What takes steps of an algorithm again.

    Attributes:
        handle: in Julia; None where no formula gives the algorithm's steps.
        dense: whether it gives the states inside them too.
    """

    handle: Any
    dense: bool


@functools.cache
def stack_algorithm(julia: Julia, solver: str) -> StackAlgorithm:
    """The algorithm of that name, or the one that `pylocalreg.julia.algorithm` describes.

    Raises:
        OptionError: the stack has none, or does not take its arguments.
    """
    if solver in ELSEWHERE:
        raise OptionError(
            f"solver {str(solver)!r} is of {ELSEWHERE[solver]}, which takes steps by an integrator of its "
            "own: those of OrdinaryDiffEq and StochasticDiffEq are read; for stiff problems FBDF"
        )
    if solver in WRONG:
        raise OptionError(f"solver {str(solver)!r}: in the stack it {WRONG[solver]}; take VCABM or FBDF")
    row = (solver if isinstance(solver, Algorithm) else Algorithm.named(solver, solver)).row
    with refusing(julia, f"solver {str(solver)!r}"):
        handle, kind, _, implicit, adaptive = julia.call("algorithm", row)
    return StackAlgorithm(handle, kind == "sde", bool(implicit), bool(adaptive))


@functools.cache
def formula_of(julia: Julia, solver: str, dtype: str = "float64") -> Formula:
    """What takes the algorithm's steps again; held against its real steps when it is first asked for."""
    algorithm = stack_algorithm(julia, solver)
    if algorithm.stochastic:
        return Formula(None, False)
    return Formula(*julia.call("formula", algorithm.handle, dtype))


@functools.cache
def sensitivity_of(julia: Julia, adjoint: Sensitivity) -> Any:
    """The adjoint in Julia.

    Raises:
        OptionError: SciMLSensitivity does not take its arguments.
    """
    with refusing(julia, f"adjoint {str(adjoint)!r}"):
        return julia.call("sensitivity", adjoint.row)


@functools.cache
def solve_options_of(julia: Julia, options: tuple[tuple[str, Any], ...]) -> Any:
    """Options of a solve in Julia, made once.

    Raises:
        OptionError: the stack does not take a value's arguments.
    """
    names = ", ".join(name for name, _ in options)
    with refusing(julia, f"solve_options {names}"):
        return julia.call("solve_options", [(name, value) for name, value in options])
