"""Options of the Julia engine's solves by the stack's own names, checked."""

from collections.abc import Mapping
from typing import Any

from pylocalreg.checks import short
from pylocalreg.engines.algorithm import Algorithm
from pylocalreg.errors import OptionError
from pylocalreg.regularizers import GlobalRegularizer, LocalRegularizer, Regularizer

SolveOptions = tuple[tuple[str, Any], ...]

OWN = (
    *(
        "abstol",
        "adaptive",
        "beta1",
        "beta2",
        "dt",
        "dtmax",
        "dtmin",
        "gamma",
        "maxiters",
        "progress",
        "qmax",
    ),
    *("qmin", "qsteady_max", "qsteady_min", "saveat", "tstops"),
    "reltol",
)
"""What is an argument of the module."""
LIMITER = "what takes a step again asks the algorithm; give it as the algorithm's own argument, by code"
KEPT = {
    "calck": "the states inside the steps are computed by it",
    "callback": "the states are read at every step, which events change",
    "dense": "dense output is asked for with the call, node(u0, dense=True)",
    "save_end": "what a solution keeps is what its adjoint needs",
    "save_everystep": "what a solution keeps is what its adjoint needs",
    "save_idxs": "what a solution keeps is what its adjoint needs",
    "save_on": "what a solution keeps is what its adjoint needs",
    "save_start": "what a solution keeps is what its adjoint needs",
    "stage_limiter": LIMITER,
    "step_limiter": LIMITER,
    "userdata": "it is not read",
    "verbose": "what goes wrong is raised",
}
"""What pylocalreg relies on, and why."""


def check_solve_options(options: Mapping[str, Any] | None, tspan: tuple[float, float]) -> SolveOptions:
    """The options as rows of LocalReg's `argument`.

    Raises:
        OptionError: one that is not the user's to give, or a value that Julia could not be told.
    """
    if options is None:
        return ()
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError(f"solve_options = {short(options)}: give a dict of values by the options' names")
    for name in options:
        if name in OWN:
            raise OptionError(f"solve_options has {name!r}: give it as the module's own argument, {name}=")
        if name in KEPT:
            raise OptionError(f"solve_options has {name!r}, which is pylocalreg's: {KEPT[name]}")
    return tuple((name, _row(name, value)) for name, value in options.items())


def _row(name: str, value: Any) -> Any:
    if isinstance(value, Algorithm):
        return value.row
    if isinstance(value, bool | int | float):
        return value
    try:
        return ("numbers", tuple(float(x) for x in value))
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"solve_options has {name} = {short(value)}: give a number, True or False, a sequence of "
            "numbers, or what pylocalreg.julia.algorithm makes"
        ) from error


def refuse_solve_options(options: SolveOptions, engine: str, regularizer: Regularizer | None) -> None:
    """Raise `OptionError` for options that the engine has not, or that make an estimate another than its
    gradient's.
    """
    names = [name for name, _ in options]
    if names and engine != "julia":
        raise OptionError(
            f"solve_options has {', '.join(names)}: the embedded engine has none of the stack's own options; "
            "leave them out, or take engine='julia'"
        )
    reads_estimates = isinstance(regularizer, GlobalRegularizer) or (
        isinstance(regularizer, LocalRegularizer) and regularizer.estimator is None
    )
    if "internalnorm" in names and reads_estimates:
        raise OptionError(
            "solve_options has 'internalnorm', and a regularizer takes gradients of the usual norm of the "
            "error: leave one out, or give LocalRegularizer an estimator, which takes the usual norm"
        )
