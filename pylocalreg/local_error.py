"""The regularizer alone, for a model that is solved elsewhere."""

import torch

from pylocalreg.checks import NOT_NUMBERS, check_finite, check_resolved, check_state, check_tolerance
from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Dynamics, Gradient, Problem
from pylocalreg.errors import OptionError, TimeSpanError
from pylocalreg.observed import Observed


def local_error(
    f: Dynamics,
    u: torch.Tensor,
    t: float,
    dt: float,
    *,
    abstol: float = 1e-6,
    reltol: float = 1e-6,
    solver: str = "Tsit5",
    gradient: Gradient = "exact",
) -> torch.Tensor:
    """R = EEst * |dt| of one step of ``solver`` from (t, u): a scalar tensor to be weighted into a loss.

    EEst is the embedded error estimate rms(e / (abstol + max(|u|, |u_new|) reltol)); see
    `LocalRegularizer` for where t, u and dt come from in the paper. Differentiable by autograd, to any
    order, with respect to ``u`` and whatever ``f`` depends on; where EEst is 0 every derivative is. Detach
    ``u`` to hold the state constant.

    Args:
        f: the dynamics ``f(t, u)`` of a torchdiffeq, torchode or torchsde model, say.
        u: the state, a float32 or float64 tensor of any shape.
        t, dt: start and signed size of the step.
        gradient: ``"exact"``, or ``"frozen"`` to hold the first stage constant as the paper's code does.

    Raises:
        ShapeError, DtypeError, ToleranceError, TimeSpanError, OptionError: for what can not be computed.
        NonFiniteError: R is NaN or infinite.
    """
    check_state(u)
    try:
        t, dt = float(t), float(dt)
    except NOT_NUMBERS as error:
        raise TimeSpanError(f"one step from t = {t!r} of size dt = {dt!r}: both must be numbers") from error
    if not (abs(t) < float("inf") and 0 < abs(dt) < float("inf")):
        raise TimeSpanError(f"one step from t = {t} of size dt = {dt}: both must be finite, and dt not 0")
    if gradient not in ("exact", "frozen"):
        raise OptionError(f"gradient = {gradient!r} does not exist: choose 'exact' or 'frozen'")
    abstol, reltol = check_tolerance("abstol", abstol), check_tolerance("reltol", reltol)
    check_resolved(abstol, reltol, u.dtype)
    engine = get_engine("torch")
    engine.check(solver, "discrete", None, None)
    engine.check_estimate(solver, "error")
    problem = Problem(Observed(f), (), (t, t + dt), solver, abstol, reltol, 1)
    value, _ = engine.estimate(problem, "error", t, u, dt, gradient)
    check_finite(value, t, dt)
    return value
