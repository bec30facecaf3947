"""One step of an embedded Runge-Kutta pair, in the arrays of any library."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pylocalreg.engines.torch_engine.tableaus import Tableau

Array = TypeVar("Array")


def embedded_step(
    tableau: Tableau,
    f: Callable[[Any, Array], Array],
    t: Any,
    u: Array,
    dt: Any,
    hold: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """The state after the step of size ``dt`` from (t, u), and the embedded error estimate.

    ``t`` and ``dt`` may be arrays that broadcast to ``u``. ``hold`` makes of the first stage what the others
    are computed from, a constant say.
    """
    first = f(t, u)
    ks = [first if hold is None else hold(first)]

    def total(weights: Sequence[float]) -> Any:
        terms = [w * k for w, k in zip(weights, ks, strict=False) if w]  # type: ignore[operator]
        return dt * sum(terms[1:], terms[0])

    for c, a in tableau.inner_rows:
        ks.append(f(t + c * dt, u + total(a)))
    u_new = u + total(tableau.b)
    if tableau.fsal:
        ks.append(f(t + dt, u_new))
    return u_new, total(tableau.btilde)
