"""The regularizer alone in JAX: for a model that diffrax solves. Needs jax: pip install 'pylocalreg[jax]'."""

import math
from collections.abc import Callable
from typing import Any

from pylocalreg.checks import check_tolerance
from pylocalreg.embedded_step import embedded_step
from pylocalreg.engines.base import Gradient
from pylocalreg.engines.scale import FLOOR, Scale
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError
from pylocalreg.regularizers.base import choose

try:
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"pylocalreg.jax needs {missing.name}: pip install 'pylocalreg[jax]'", name=missing.name
    ) from missing


def local_error(
    f: Callable[[Any, Any, Any], Any],
    u: Any,
    t: Any,
    dt: Any,
    args: Any = None,
    *,
    abstol: float = 1e-6,
    reltol: float = 1e-6,
    solver: str = "Tsit5",
    gradient: Gradient = "exact",
    scale: Scale = "linear",
) -> Any:
    """`pylocalreg.local_error` of JAX arrays: R = EEst * |dt| of one step of ``solver`` from (t, u).

    The same numbers, and derivatives of every order by ``jax.grad`` and ``jax.jvp``; inside ``jax.jit``,
    ``jax.vmap`` and ``jax.lax.scan``. Where EEst is 0 every derivative is. What is not finite stays so: a
    traced value can not raise.

    Args:
        f: the vector field ``f(t, u, args)`` of a ``diffrax.ODETerm``.
        u: the state, any pytree of floating arrays; ``jax.lax.stop_gradient(u)`` holds it constant.
        t, dt: start and signed size of the step, traced or not; `dt_at` takes it from a solution's steps.
            The gradient holds both constant.
        solver: an explicit method with an error estimate: "BS3", "DP5", "Tsit5" or "Vern7".
        gradient, scale: as for `pylocalreg.local_error`.

    Raises:
        OptionError: a solver that is no explicit pair, or an option's value that does not exist.
        ToleranceError: a tolerance that is no positive number.
    """
    pairs = [name for name, tableau in TABLEAUS.items() if tableau.btilde]
    if solver not in pairs:
        raise OptionError(f"solver = {solver!r} has no error estimate in JAX: choose one of {pairs}")
    choose("gradient", gradient, ("exact", "frozen"))
    choose("scale", scale, ("linear", "log"))
    abstol, reltol = check_tolerance("abstol", abstol), check_tolerance("reltol", reltol)
    flat, unravel = ravel_pytree(u)
    t, dt = (jax.lax.stop_gradient(jnp.asarray(x, flat.dtype)) for x in (t, dt))

    def slope(at: Any, state: Any) -> Any:
        return ravel_pytree(f(at, unravel(state), args))[0]

    hold = jax.lax.stop_gradient if gradient == "frozen" else None
    u_new, error = embedded_step(TABLEAUS[solver], slope, t, flat, dt, hold)
    estimate = _rms(error / (abstol + jnp.maximum(jnp.abs(flat), jnp.abs(u_new)) * reltol))
    if scale == "log":
        return jnp.log1p(estimate / FLOOR) / math.log(10)
    return estimate * jnp.abs(dt)


def dt_at(ts: Any, t: Any) -> Any:
    """The signed size of the step that contains ``t``, from the times a solver stepped between: ``ts`` of
    ``diffrax.SaveAt(t0=True, steps=True)``, shape ``(steps + 1,)``, which may end in infinities. Where two
    steps meet, the earlier one's. Inside ``jax.jit`` and ``jax.vmap`` too.
    """
    ts = jnp.asarray(ts)
    sign = jnp.where(ts[1] > ts[0], 1, -1)
    last = jnp.isfinite(ts).sum() - 1
    along = jnp.where(jnp.isfinite(ts), sign * ts, jnp.inf)
    i = jnp.clip(jnp.searchsorted(along, sign * t, side="left"), 1, last)
    return ts[i] - ts[i - 1]


def _rms(x: Any) -> Any:
    """The root mean square, whose derivatives at 0 are 0."""
    mean = jnp.mean(x * x)
    zero = mean == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, mean)))
