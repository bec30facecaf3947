"""The regularizer alone, for a model that is solved elsewhere."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import NOT_NUMBERS, check_finite, check_resolved, check_tolerance
from pylocalreg.dynamics import convolves
from pylocalreg.embedded_step import embedded_step
from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Gradient, Problem
from pylocalreg.engines.scale import Scale, scaled
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError, ShapeError, TimeSpanError
from pylocalreg.observed import Observed
from pylocalreg.observed.output import check_output
from pylocalreg.observed.reached import is_transformed
from pylocalreg.precision import check_products
from pylocalreg.regularizers.base import check_generator, choose, draw_seed
from pylocalreg.states import State, layout_of
from pylocalreg.step_record import StepRecord


def local_error(
    f: Callable[[torch.Tensor, Any], Any],
    u: State,
    t: float | torch.Tensor,
    dt: float | torch.Tensor | StepRecord,
    *,
    abstol: float = 1e-6,
    reltol: float = 1e-6,
    solver: str | None = None,
    gradient: Gradient = "exact",
    scale: Scale = "linear",
    diffusion: Callable[[torch.Tensor, Any], Any] | None = None,
    noise: Literal["diagonal", "scalar"] = "diagonal",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """R = EEst * |dt| of one step of ``solver`` from (t, u): a scalar tensor to be weighted into a loss.

    EEst is the embedded error estimate rms(e / (abstol + max(|u|, |u_new|) reltol)); see
    `LocalRegularizer` for where t, u and dt come from in the paper. Differentiable by autograd, to any
    order, with respect to ``u`` and whatever ``f`` depends on; where EEst is 0 every derivative is. Detach
    ``u`` to hold the state constant.

    Args:
        f: the dynamics ``f(t, u)`` of a torchdiffeq, torchode or torchsde model, say.
        u: the state, a float32 or float64 tensor of any shape, or a tuple or dict of such.
        t, dt: start and signed size of the step. ``dt`` may be a `StepRecord`: the step is then the one that
            the recorded solve took at ``t``. Where one of them is a vector, each entry of the first dimension
            of ``u`` takes a step of its own, as torchode's samples do: ``f`` gets the times as a vector, and
            what is given is R of each, shape ``(len(u),)``.
        solver: by default "Tsit5", with a diffusion "SOSRI2".
        gradient: ``"exact"``, or ``"frozen"`` to hold the first stage constant as the paper's code does.
        scale: ``"linear"``: R; ``"log"``: log10(1 + EEst / 0.01), whose coefficient beside a cross entropy
            is 1 whatever the step.
        diffusion: g of the SDE du = f dt + g dW, of the state's shape. The step is along noise of its own.
        noise: the diffusion's: ``"diagonal"``, each element has a Wiener process of its own (additive noise
            too), or ``"scalar"``, each row has one.
        generator: of the noise; torch's global CPU generator if None.

    Raises:
        ShapeError, DtypeError, ToleranceError, TimeSpanError, OptionError: for what can not be computed.
        NonFiniteError: R is NaN or infinite.
    """
    layout = layout_of(u)
    choose("gradient", gradient, ("exact", "frozen"))
    choose("scale", scale, ("linear", "log"))
    choose("noise", noise, ("diagonal", "scalar"))
    check_generator(generator)
    abstol, reltol = check_tolerance("abstol", abstol), check_tolerance("reltol", reltol)
    stochastic = diffusion is not None
    solver = solver or ("SOSRI2" if stochastic else "Tsit5")
    engine = get_engine("torch")
    engine.check(solver, "discrete", stochastic=stochastic)
    engine.check_estimate(solver, "error")
    packed = layout.pack(u)
    check_resolved(abstol, reltol, packed.dtype)
    check_products(
        reltol, packed.device, packed.dtype, lambda: isinstance(f, torch.nn.Module) and convolves(f)
    )
    if any(isinstance(x, torch.Tensor) and x.dim() > 0 for x in (t, dt)):
        if isinstance(dt, StepRecord) or not isinstance(u, torch.Tensor) or stochastic:
            raise OptionError(
                "t or dt is a vector, a step for each sample: give numbers for states of several tensors, "
                "for SDEs and with a StepRecord"
            )
        return _each(f, u, t, dt, solver, abstol, reltol, gradient, scale)
    start, size = _checked_step(t, dt)
    path = None
    if stochastic:
        if size < 0:
            raise TimeSpanError(f"dt = {size:g} with a diffusion: noise is solved along time, give dt > 0")
        shape = (*packed.shape[:-1], 1) if noise == "scalar" and packed.dim() else packed.shape
        seed = draw_seed(generator)
        path = BrownianPath(start, shape, seed=seed, dtype=packed.dtype, device=packed.device)
    problem = Problem(
        Observed(layout.dynamics(f)),  # type: ignore[arg-type]
        (),
        (start, start + size),
        solver,
        abstol,
        reltol,
        1,
        g=Observed(layout.dynamics(diffusion)) if stochastic else None,  # type: ignore[arg-type]
        noise=path,
    )
    value, _ = engine.estimate(problem, "error", start, packed, size, gradient)
    check_finite(value, start, size)
    return scaled(scale, value, size)


def _checked_step(t: Any, dt: Any) -> tuple[float, float]:
    try:
        t = float(t)
        dt = dt.dt_at(t) if isinstance(dt, StepRecord) else float(dt)
    except NOT_NUMBERS as error:
        if isinstance(error, TimeSpanError):
            raise
        raise TimeSpanError(f"one step from t = {t!r} of size dt = {dt!r}: both must be numbers") from error
    if not (abs(t) < float("inf") and 0 < abs(dt) < float("inf")):
        raise TimeSpanError(f"one step from t = {t} of size dt = {dt}: both must be finite, and dt not 0")
    return t, dt


def _each(
    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    u: torch.Tensor,
    t: Any,
    dt: Any,
    solver: str,
    abstol: float,
    reltol: float,
    gradient: Gradient,
    scale: Scale,
) -> torch.Tensor:
    """R of each entry of the first dimension."""
    if solver not in TABLEAUS:
        raise OptionError(f"t or dt is a vector: give an explicit solver, not {solver!r}")
    samples = len(u) if u.dim() else 1
    along = [samples] + [1] * max(u.dim() - 1, 0)

    def column(name: str, value: Any) -> torch.Tensor:
        times = torch.as_tensor(value, dtype=u.dtype, device=u.device).detach()
        if times.shape not in ((), (samples,)):
            raise ShapeError(
                f"{name} is of shape {tuple(times.shape)} for a state of shape {tuple(u.shape)}: give a "
                f"number or {samples} of them"
            )
        return times.expand(samples).reshape(along)

    start, size = column("t", t), column("dt", dt)
    if not bool(torch.isfinite(start + size).all() and (size != 0).all()):
        raise TimeSpanError("every t and dt must be finite, and no dt 0")

    def slope(at: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        k = f(at.reshape(samples), state)
        check_output(k, float(at.flatten()[0]), state)
        return k

    hold = torch.Tensor.detach if gradient == "frozen" else None
    u_new, error = embedded_step(TABLEAUS[solver], slope, start, u, size, hold)
    ratio = (error / (abstol + torch.maximum(u.abs(), u_new.abs()) * reltol)).reshape(samples, -1)
    zero = (ratio.detach() == 0).all(1)
    norm = torch.linalg.vector_norm(ratio.masked_fill(zero[:, None], 1), dim=1).masked_fill(zero, 0)
    step = size.reshape(samples).abs()
    values = norm / ratio.shape[1] ** 0.5 * step
    if not is_transformed(values):
        worst = int(values.detach().nan_to_num(torch.inf, torch.inf).argmax())
        check_finite(values[worst].detach(), float(start.flatten()[worst]), float(step[worst]))
    each: torch.Tensor = scaled(scale, values, step)  # type: ignore[arg-type]
    return each
