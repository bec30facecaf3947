"""Methods' coefficients as host/problems.jl takes them: the same data the embedded engine steps with."""

import functools
from typing import Any

from pylocalreg.engines.julia_engine.stack import formula_of
from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.engines.methods import METHODS
from pylocalreg.engines.torch_engine.adams.step import hermite_weights
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau
from pylocalreg.engines.torch_engine.sde import SDE_TABLEAUS
from pylocalreg.engines.torch_engine.sde.tableau import StochasticTableau
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS, Tableau

ADAMS = ("VCAB3", "VCABM3")


@functools.cache
def tableau_of(julia: Julia, solver: str, dtype: str) -> Any:
    """The solver's coefficients in Julia; None for an algorithm of the stack that has no formula."""
    if solver not in METHODS:
        return formula_of(julia, solver, dtype).handle
    if solver in TABLEAUS:
        return julia.call("coefficients", dtype, "explicit", _explicit(TABLEAUS[solver]))
    if solver in ADAMS:
        return julia.call("coefficients", dtype, "adams", (_explicit(TABLEAUS["BS3"]), solver == "VCABM3"))
    if solver in ROSENBROCK_TABLEAUS:
        return julia.call("coefficients", dtype, "rosenbrock", _rosenbrock(ROSENBROCK_TABLEAUS[solver]))
    return julia.call("coefficients", dtype, "stochastic", _stochastic(SDE_TABLEAUS[solver]))


def inside_weights(solver: str, theta: float) -> list[float]:
    """Weights of a state inside a step, ``theta`` of its size behind its start, as its replay takes them;
    theta alone where LocalReg has them.
    """
    if solver in ADAMS:
        return list(hermite_weights(theta))
    if solver in TABLEAUS:
        return list(TABLEAUS[solver].interpolant_weights(theta))
    return [theta]


def _explicit(tableau: Tableau) -> tuple[Any, ...]:
    return (
        [0.0, *tableau.c],
        [[], *(list(row) for row in tableau.a)],
        list(tableau.b),
        list(tableau.btilde),
        list(tableau.stiffness or ()),
        tableau.stages,
    )


def _rosenbrock(tableau: RosenbrockTableau) -> tuple[Any, ...]:
    rows = (tableau.a, tableau.C)
    a, C = ([[], *(list(row) for row in lower)] for lower in rows)
    vectors = (list(x) for x in (tableau.c, tableau.d, tableau.b, tableau.btilde))
    return (tableau.gamma, a, C, *vectors, [list(row) for row in tableau.H])


def _stochastic(tableau: StochasticTableau) -> tuple[Any, ...]:
    return (
        [
            (of_drift, stage.c, list(stage.a), list(stage.b), stage.integral)
            for of_drift, _, stage in tableau.calls
        ],
        list(tableau.alpha),
        [(name, list(row)) for name, row in tableau.beta.items()],
        list(tableau.error_drift),
        [(name, list(row)) for name, row in tableau.error_diffusion.items()],
        tableau.delta,
        tableau.milstein_error,
    )


def needs_dZ(solver: str) -> bool:
    """Whether a step takes dZ beside dW; of the stack's own algorithms any may."""
    if solver not in SDE_TABLEAUS:
        return True
    tableau = SDE_TABLEAUS[solver]
    of_stages = {stage.integral for _, _, stage in tableau.calls if stage.b}
    return "WZ" in of_stages | set(tableau.beta) | set(tableau.error_diffusion)
