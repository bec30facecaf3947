"""Julia's exceptions as pylocalreg's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.engines.julia_engine.streams import in_order
from pylocalreg.errors import (
    DtypeError,
    LocalRegError,
    NonFiniteError,
    OptionError,
    ShapeError,
    StepLimitError,
    StepUnderflowError,
)

REFUSED: dict[str, type[LocalRegError]] = {"dtype": DtypeError, "option": OptionError, "shape": ShapeError}


@contextmanager
def refusals(julia: Julia) -> Iterator[None]:
    """What Julia refuses, or can not differentiate, as pylocalreg's errors."""
    try:
        yield
    except julia.juliacall.JuliaError as error:
        _refuse(julia, error)
        raise


def _refuse(julia: Julia, error: Any) -> Any:
    """Raise for what Julia refuses; what else has failed, as `host_failure` says it."""
    failure = julia.call("failure", error.exception)
    if failure is not None and failure[0] in REFUSED:
        kind, text, _ = failure
        raise REFUSED[kind](text) from error
    if "DimensionMismatch" in str(error):
        raise ShapeError(f"the dynamics do not fit the state: {error}") from error
    if "Mutating arrays is not supported" in str(error):
        raise OptionError(
            "the dynamics write to arrays, through which Zygote takes no gradient: write them out of "
            f"place, or as f!(du, u, p, t): {error}"
        ) from error
    if "MethodError" in str(error) and "ForwardDiff.Dual" in str(error):
        raise OptionError(
            "the dynamics do not take the dual numbers that ForwardDiff differentiates by (an array of "
            "Float64 made before holds none, nor does an argument declared Float64): let arrays and "
            f"arguments have the element type of u and p: {error}"
        ) from error
    return failure


@contextmanager
def refusing(julia: Julia, what: str) -> Iterator[None]:
    """Where the stack may refuse what was asked for: ``what`` names it in the error.

    Raises:
        OptionError: with Julia's own text.
    """
    try:
        yield
    except julia.juliacall.JuliaError as error:
        failure = julia.call("failure", error.exception)
        if failure is None or failure[0] != "stack":
            raise
        raise _refusal(what, failure) from error


def _refusal(what: str, failure: Any) -> OptionError:
    """The error of a failure of that kind: ("stack", text, package that is missing, or "")."""
    _, text, package = failure
    advice = (
        f": run `pylocalreg install-julia --add {package}`, or add it to your own project" if package else ""
    )
    return OptionError(f"{what}: {text}{advice}")


@contextmanager
def inside(julia: Julia, problem: Problem, device: torch.device) -> Iterator[None]:
    """Where Julia computes: a GPU's work in order, and Julia's exceptions as pylocalreg's.

    Julia's own text and trace stand behind them.
    """
    try:
        with in_order(julia, device):
            yield
    except julia.juliacall.JuliaError as error:
        known = translated(julia, problem, error)
        if known is None:
            raise
        raise known from error


def translated(julia: Julia, problem: Problem, error: Any) -> LocalRegError | None:
    """A failed solve's error; None for what is none of pylocalreg's. What Julia refuses is raised."""
    failure = _refuse(julia, error)
    if failure is None:
        return None
    if failure[0] == "stack":
        names = ", ".join(name for name, _ in problem.solve_options)
        options = f" with solve_options {names}" if names else ""
        return _refusal(f"solver {str(problem.solver)!r}{options}", failure)
    kind, t, dt, EEst, naccept, nreject = failure
    where = f"at t = {t:.6g} after {naccept} accepted and {nreject} rejected steps"
    if kind == "step_limit":
        return StepLimitError(
            f"maxiters = {problem.maxiters} steps ended {where} of tspan {problem.tspan}: loosen "
            f"abstol = {problem.abstol:g} and reltol = {problem.reltol:g}, raise maxiters, or "
            "regularize the dynamics"
        )
    dtmin = problem.steps.dtmin
    if kind == "step_underflow" and dtmin is not None and abs(dt) <= dtmin:
        return StepUnderflowError(
            f"dt = {dt:.3g} is not above dtmin = {dtmin:g} {where} (EEst = {EEst:.3g}): loosen the "
            "tolerances, lower dtmin, or leave it out"
        )
    if kind == "step_underflow":
        return StepUnderflowError(
            f"dt = {dt:.3g} no longer moves the time {where} (EEst = {EEst:.3g}): the dynamics are "
            "discontinuous, too stiff for this solver, or the tolerances are finer than the dtype "
            "resolves"
        )
    if kind == "no_convergence":
        return StepUnderflowError(
            f"the implicit stages do not converge {where} (dt = {dt:.3g}): give a smaller dt, or "
            "check the dynamics"
        )
    return NonFiniteError(
        f"the dynamics or the state becomes NaN or infinite {where} (dt = {dt:.3g}): check the "
        "parameters and the input; the solution may blow up here"
    )
