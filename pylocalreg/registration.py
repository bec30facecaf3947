"""A tableau of the user's own becomes a solver."""

import dataclasses
import math

import numpy as np

from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.methods import METHODS, ODE_METHODS, REGISTERED
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS, Tableau
from pylocalreg.engines.torch_engine.tableaus.order import HIGHEST, first_unmet
from pylocalreg.errors import OptionError

ROUNDING = 1e-9
"""Coefficients are written with ten digits or more."""


def register(tableau: Tableau) -> None:
    """Make an explicit Runge-Kutta method a solver of the embedded engine, by its ``name``.

    What it claims is checked: that each row of ``a`` sums to its node, every order condition up to ``order``
    (one for each rooted tree), that the error estimate vanishes where the dynamics are constant, that the
    dense output ends at the new state. Without an ``interpolant`` it is the cubic Hermite one.

    To register the same tableau again does nothing.

    Raises:
        OptionError: a condition that does not hold, named, with its value; shapes that do not fit; a name
            that is taken.
    """
    if not isinstance(tableau, Tableau):
        raise OptionError(f"register({type(tableau).__name__}): give a pylocalreg.Tableau")
    if not isinstance(tableau.name, str) or not tableau.name:
        raise OptionError(f"name = {tableau.name!r}: give the tableau a name, as a string")
    _check_shapes(tableau)
    _check_order(tableau)
    whole = tableau if tableau.interpolant else hermite(tableau)
    if whole is not tableau:
        _check_shapes(whole)
    _check_interpolant(whole)
    if tableau.name in METHODS:
        if TABLEAUS.get(tableau.name) == whole:
            return
        raise OptionError(f"{tableau.name!r} is taken by another method: give the tableau another name")
    REGISTERED.add(tableau.name)
    TABLEAUS[tableau.name] = whole
    METHODS[tableau.name] = ODE_METHODS[tableau.name] = ExplicitRK(whole)


def hermite(tableau: Tableau) -> Tableau:
    """With the cubic through both ends' states and slopes as dense output; a method whose last stage is not
    that at the new state gets one more for it.
    """
    b, own = tableau.b, tableau.stages
    c, a, stages, solution = tableau.c, tableau.a, len(tableau.a) + 1, tableau.solution
    if tableau.fsal:
        last = own - 1
    else:
        c, a, last, stages = (*c, 1.0), (*a, (*b, *[0.0] * (stages - len(b)))), stages, stages + 1
        solution = solution if tableau.btilde else None  # without an estimate every stage is the step's own
    rows = [[0.0, 3 * weight, -2 * weight] for weight in (*b, *[0.0] * (stages - len(b)))]
    for i, slope in ((0, (1.0, -2.0, 1.0)), (last, (0.0, -1.0, 1.0))):
        rows[i] = [x + y for x, y in zip(rows[i], slope, strict=True)]
    weights = tuple(tuple(row) for row in rows)
    return dataclasses.replace(tableau, c=c, a=a, solution=solution, interpolant=weights)


def _check_shapes(tableau: Tableau) -> None:
    def refuse(what: str) -> None:
        raise OptionError(f"tableau {tableau.name!r}: {what}")

    order = tableau.order
    if not isinstance(order, int) or not 1 <= order <= HIGHEST:
        refuse(f"order = {order!r} must be a whole number from 1 to {HIGHEST}")
    if len(tableau.c) != len(tableau.a):
        refuse(f"c has {len(tableau.c)} nodes and a has {len(tableau.a)} rows, one each from stage 2 on")
    for i, row in enumerate(tableau.a):
        if len(row) != i + 1:
            refuse(f"row {i + 2} of a has {len(row)} weights: stage {i + 2} follows {i + 1} others")
    if len(tableau.btilde) > len(tableau.a) + 1:
        refuse(f"btilde has {len(tableau.btilde)} weights for {len(tableau.a) + 1} stages")
    if tableau.fsal and tableau.stages < 2:
        refuse("with solution=None its last stage is at the new state: give two stages or more")
    if tableau.fsal and tableau.c[tableau.stages - 2] != 1:
        refuse(f"with solution=None stage {tableau.stages} is at the new state, c = 1: give solution=")
    if tableau.solution is not None and not 1 <= len(tableau.solution) <= tableau.stages:
        refuse(f"solution has {len(tableau.b)} weights for {tableau.stages} stages")
    every = [*tableau.c, *tableau.b, *tableau.btilde, *(x for row in tableau.a for x in row)]
    if not all(math.isfinite(x) for x in every):
        refuse("a coefficient is not finite")
    if tableau.interpolant and len(tableau.interpolant) != len(tableau.a) + 1:
        refuse(f"interpolant has {len(tableau.interpolant)} rows for {len(tableau.a) + 1} stages")


def _check_order(tableau: Tableau) -> None:
    stages = tableau.stages
    A, c = np.zeros((stages, stages)), np.array([0.0, *tableau.c[: stages - 1]])
    for i, row in enumerate(tableau.a[: stages - 1]):
        A[i + 1, : len(row)] = row
    for i, (node, total) in enumerate(zip(c, A.sum(axis=1), strict=True)):
        if abs(node - total) > ROUNDING * max(1.0, float(abs(A[i]).sum())):
            raise OptionError(
                f"tableau {tableau.name!r}: stage {i + 1} has the node c = {node:.10g}, and its row of a "
                f"sums to {total:.10g}"
            )
    b = [*tableau.b, *[0.0] * (stages - len(tableau.b))]
    unmet = first_unmet(b, A, c, tableau.order, ROUNDING)
    if unmet is not None:
        tree, value = unmet
        raise OptionError(
            f"tableau {tableau.name!r} claims order {tableau.order}, and a condition of order {tree.order} "
            f"does not hold: sum(b * {tree}) is {value:.10g}, not 1 / {tree.density} = "
            f"{1 / tree.density:.10g}"
        )
    if tableau.btilde:
        total = sum(tableau.btilde)
        if abs(total) > ROUNDING * max(1.0, sum(abs(x) for x in tableau.btilde)):
            raise OptionError(
                f"tableau {tableau.name!r}: btilde, the difference of two solutions' weights, sums to "
                f"{total:.10g}, not to 0"
            )
        if not any(tableau.btilde):
            raise OptionError(f"tableau {tableau.name!r}: btilde is 0; leave it empty for fixed steps")


def _check_interpolant(tableau: Tableau) -> None:
    ends = tableau.interpolant_weights(1.0)
    b = [*tableau.b, *[0.0] * (len(ends) - len(tableau.b))]
    apart = max(abs(x - y) for x, y in zip(ends, b, strict=True))
    if apart > ROUNDING * max(1.0, max(abs(x) for row in tableau.interpolant for x in row)):
        raise OptionError(
            f"tableau {tableau.name!r}: at theta = 1 the interpolant's weights differ from the new state's "
            f"by {apart:.3g}"
        )
