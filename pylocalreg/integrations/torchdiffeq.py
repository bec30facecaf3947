"""torchdiffeq's calls: ``from pylocalreg.integrations.torchdiffeq import odeint`` in place of
``from torchdiffeq import odeint``, and a ``regularizer=``.

What torchdiffeq has and this has not is refused by name; docs/drop-ins.md has the table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from pylocalreg.checks import short
from pylocalreg.engines.base import Adjoint
from pylocalreg.engines.torch_engine.methods import ODE_METHODS
from pylocalreg.errors import OptionError, SaveAtError, ShapeError, TimeSpanError, ToleranceError
from pylocalreg.events import Event
from pylocalreg.integrations.options import solver_of, take, times_of
from pylocalreg.integrations.torchdiffeq_tableaus import TABLEAUS
from pylocalreg.neural_ode import NeuralODE
from pylocalreg.registration import register
from pylocalreg.regularizers import Regularizer
from pylocalreg.states import State

METHODS = {"dopri5": "DP5", "tsit5": "Tsit5", "bosh3": "BS3", "euler": "Euler"} | {
    name: tableau.name for name, tableau in TABLEAUS.items()
}
IMPLICIT = (
    *("implicit_euler", "implicit_midpoint", "trapezoid", "radauIIA3", "radauIIA5"),
    *("gl4", "gl6", "sdirk2", "trbdf2"),
)
ABSENT_METHODS = {
    "dopri8": "Vern7",
    "explicit_adams": "VCAB3",
    "implicit_adams": "VCABM3",
    "fixed_adams": "VCABM3",
    "scipy_solver": "dopri5",
    **dict.fromkeys(IMPLICIT, "Rodas5P"),
}
ADAPTIVE = {
    "first_step": "dt",
    "max_step": "dtmax",
    "safety": "gamma",
    "ifactor": "qmax",
    "dfactor": "qmin",
    "max_num_steps": "maxiters",
}
"""Options of adaptive steps, by the names of `NeuralODE`'s arguments."""
NOTHING = {"min_step": 0, "perturb": False}
"""Values of options that ask for nothing."""
ABSENT_OPTIONS = {
    "norm": "steps follow the root mean square over every element of the state",
    "min_step": "a step that is too inexact is never taken; loosen rtol and atol",
    "perturb": "give the times at which func jumps as jump_t, with adaptive steps",
    "dtype": "times are of the state's dtype",
}
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
NO_END = 1e9
"""How far a solve goes that only an event is to end."""
FIXED_STEPS_TO_AN_EVENT = 20_000

Func = Callable[[torch.Tensor, Any], Any]


def odeint(
    func: Func,
    y0: State,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Func | None = None,
    regularizer: Regularizer | None = None,
) -> Any:
    """torchdiffeq's ``odeint``: the states at the times ``t``, shape ``(len(t), *y0.shape)``, or a tuple of
    such where ``y0`` is a tuple; the first is ``y0``. The gradient is the exact one of the steps taken.

    Args:
        func: the dynamics ``func(t, y)``.
        t: times in either order; a gradient is taken of them where they want one.
        rtol, atol: numbers. ``atol`` may be a tensor that broadcasts to ``y0``, of a tuple a tuple.
        method: "dopri5" (the default), "tsit5", "bosh3", "adaptive_heun" or "fehlberg2", "euler", "midpoint",
            "heun2", "heun3" or "rk4" (the 3/8 rule), or any solver of the embedded engine by its own name.
        options: ``first_step``, ``max_step``, ``step_t``, ``jump_t``, ``safety``, ``ifactor``, ``dfactor``
            and ``max_num_steps`` (of the whole solve) of adaptive steps; ``step_size`` or
            ``grid_constructor``, and ``interp="cubic"``, of fixed ones.
        event_fn: where ``event_fn(t, y)``, or an element of it, crosses zero the solve ends; ``t`` is then
            the start and a time that says in which direction.
        regularizer: what else is computed of the solve, ``plr.LocalRegularizer("biased")`` say.

    Returns:
        The states; with ``event_fn`` the event's time and the states at the start and the event. With a
        regularizer its value, a scalar tensor to be added to the loss, comes last:
        ``y, R = odeint(..., regularizer=...)``.

    Raises:
        OptionError: a method or an option that is not served, by name.
        LocalRegError: whatever `NeuralODE` raises.
    """
    return _solve(func, y0, t, rtol, atol, method, options, event_fn, regularizer, "discrete")


def odeint_adjoint(
    func: Func,
    y0: State,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Func | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Sequence[torch.Tensor] | None = None,
    regularizer: Regularizer | None = None,
) -> Any:
    """torchdiffeq's ``odeint_adjoint``: as `odeint`, with the gradient of the adjoint equation, solved
    backwards with the state (backsolve) in constant memory.

    Args:
        adjoint_rtol, adjoint_atol, adjoint_method: those of the solve.
        adjoint_options: those of the solve, and ``norm="seminorm"``: the parameters' gradient is kept out of
            the choice of steps, as an integral that is taken by quadrature (``adjoint="gauss"``); the solve's
            steps are then kept.
        adjoint_params: tensors that ``func`` reaches at some times alone; all others are found, and get
            their gradients whether they are named or not.
    """
    own = dict(options or {})
    for name, value, of_solve in (
        ("adjoint_rtol", adjoint_rtol, rtol),
        ("adjoint_atol", adjoint_atol, atol),
        ("adjoint_method", adjoint_method, method),
    ):
        if value is not None and value is not of_solve and value != of_solve:
            raise OptionError(
                f"{name} = {short(value)} is not served here: the adjoint is solved as the state is, with "
                f"{short(of_solve)}"
            )
    backwards = own if adjoint_options is None else dict(adjoint_options)
    adjoint: Adjoint = "backsolve"
    if "norm" in backwards and backwards is not own:
        norm = backwards.pop("norm")
        if not isinstance(norm, str) or norm != "seminorm":
            raise OptionError(f"adjoint_options has norm = {short(norm)}: only 'seminorm' is served here")
        adjoint = "gauss"
    differing = [name for name in backwards if name not in own or backwards[name] is not own[name]]
    if differing:
        raise OptionError(
            f"adjoint_options has {', '.join(differing)}: the adjoint is solved with the solve's options; "
            "of adjoint_options norm='seminorm' is served here"
        )
    params = () if adjoint_params is None else tuple(p for p in adjoint_params if p.requires_grad)
    return _solve(func, y0, t, rtol, atol, method, options, event_fn, regularizer, adjoint, params)


def odeint_event(
    func: Func,
    y0: State,
    t0: torch.Tensor,
    *,
    event_fn: Func,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **options: Any,
) -> Any:
    """torchdiffeq's ``odeint_event``: the time at which ``event_fn(t, y)`` crosses zero after ``t0``, or with
    ``reverse_time`` before it, and the states at the start and there. Both have their gradients, by the
    event's own parameters too; so have those of ``odeint(event_fn=...)`` here.
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **options)


def _solve(
    func: Func,
    y0: State,
    t: torch.Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: Func | None,
    regularizer: Regularizer | None,
    adjoint: Adjoint,
    params: Sequence[torch.Tensor] = (),
) -> Any:
    _check_times(t)
    _check_callbacks(func)
    asked = {k: v for k, v in (options or {}).items() if k not in NOTHING or v != NOTHING[k]}
    if method in TABLEAUS:
        register(TABLEAUS[method])
    solver = solver_of(method or "dopri5", METHODS, ABSENT_METHODS)
    if event_fn is not None and len(t) != 2:
        raise SaveAtError(f"t has {len(t)} times: with event_fn give two, the start and one in the direction")
    if len(t) == 1 and regularizer is None:
        return tuple(part.unsqueeze(0) for part in y0) if isinstance(y0, tuple) else _row(y0)
    scaled = _Scaled(func, y0, atol)
    times = times_of(t)
    steps = _adaptive_steps if "error" in ODE_METHODS[solver].estimates else _fixed_steps
    arguments = steps(func, y0, t, asked, event_fn is not None)
    if event_fn is not None:
        reach = math.copysign(arguments.pop("reach"), float(times[1]) - float(times[0]))
        times = [times[0], float(times[0]) + reach]
        arguments["event"] = Event(scaled.condition(_combined(event_fn, t[0].detach(), y0)))
    node = NeuralODE(
        scaled.func,
        (times[0], times[-1]),
        solver=solver,
        abstol=scaled.atol,
        reltol=_number("rtol", rtol),
        adjoint=adjoint,
        regularizer=regularizer,
        saveat=None if event_fn is not None else times[1:],
        engine="torch",
        params=params,
        **arguments,
    )
    solution = node(scaled.enter(y0), regularize=regularizer is not None)
    u = scaled.leave(solution.u)
    if event_fn is None:
        answer = _mapped(lambda first, rest: torch.cat([_row(first), rest]), y0, u)
        return answer if regularizer is None else (answer, solution.regularization)
    if not solution.events:
        raise TimeSpanError(f"event_fn crosses zero nowhere from t = {float(times[0])} to {times[1]:g}")
    answer = solution.events[-1].t.to(t), _mapped(lambda *ends: torch.stack(ends), y0, u)
    return answer if regularizer is None else (*answer, solution.regularization)


def _check_times(t: torch.Tensor) -> None:
    if not isinstance(t, torch.Tensor) or t.dim() != 1 or not t.is_floating_point() or len(t) == 0:
        got = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, torch.Tensor) else type(t).__name__
        raise SaveAtError(f"t is a {got}: give a vector of floating point times")


def _check_callbacks(func: Func) -> None:
    for name in (*CALLBACKS, *(f"{callback}_adjoint" for callback in CALLBACKS)):
        if getattr(func, name, None) is not None:
            raise OptionError(
                f"func has {name}, which is not called here: the steps of a solve are solution.steps of "
                "plr.NeuralODE"
            )


def _adaptive_steps(
    func: Func, y0: State, t: torch.Tensor, options: Mapping[str, Any], event: bool
) -> dict[str, Any]:
    """`NeuralODE`'s arguments of adaptive steps."""
    given = take(options, [*ADAPTIVE, "step_t", "jump_t"], ABSENT_OPTIONS)
    start, end = float(t[0].detach()), float(t[-1].detach())
    reach = NO_END if event else abs(end - start)
    low, high = (start, start + reach) if end > start else (start - reach, start)
    arguments: dict[str, Any] = {"reach": reach} if event else {}
    asked = [torch.as_tensor(given.pop(name, ()), device="cpu") for name in ("step_t", "jump_t")]
    stops = [float(x) for times in asked for x in times.tolist()]
    arguments["tstops"] = [x for x in stops if low < x < high]
    for name, value in given.items():
        number = int(value) if name == "max_num_steps" else float(value)
        if name == "max_step" and number == math.inf:
            continue
        if name == "first_step":
            number = min(number, reach)
        arguments[ADAPTIVE[name]] = number
    return arguments


def _fixed_steps(
    func: Func, y0: State, t: torch.Tensor, options: Mapping[str, Any], event: bool
) -> dict[str, Any]:
    """`NeuralODE`'s arguments of fixed ones: by their size, or from time to time of a grid."""
    given = take(options, ["step_size", "grid_constructor", "interp"], ABSENT_OPTIONS)
    if given.get("interp", "cubic") != "cubic":
        raise OptionError(f"option interp = {given['interp']!r} is not served here: it is 'cubic' always")
    constructor, size = given.get("grid_constructor"), given.get("step_size")
    if constructor is not None and size is not None:
        raise OptionError("step_size and grid_constructor are given: leave one of them out")
    if event:
        if size is None:
            raise OptionError("event_fn with fixed steps: give their size, options=dict(step_size=...)")
        return {"dt": float(size), "reach": FIXED_STEPS_TO_AN_EVENT * float(size)}
    span = abs(float((t[-1] - t[0]).detach()))
    if size is not None:
        return {"dt": min(float(size), span)}
    grid = [float(x) for x in (t.detach() if constructor is None else constructor(func, y0, t))]
    sizes = [abs(b - a) for a, b in pairwise(grid)]
    ends = float(t[0].detach()), float(t[-1].detach())
    if (grid[0], grid[-1]) != ends:
        raise SaveAtError(
            f"the grid runs from {grid[0]} to {grid[-1]}: it must run from {ends[0]} to {ends[1]}"
        )
    rounding = 100 * torch.finfo(t.dtype).eps * max(map(abs, grid))
    if max(sizes) - min(sizes) <= rounding:
        return {"dt": span / len(sizes)}
    return {"dt": span, "tstops": grid[1:-1]}


def _combined(event_fn: Func, t0: torch.Tensor, y0: State) -> Func:
    """One condition of several: the smallest, each with the sign that makes it positive at the start."""
    with torch.no_grad():
        first = event_fn(t0, y0)
    if not isinstance(first, torch.Tensor):
        raise ShapeError(f"event_fn gave a {type(first).__name__}: it must give a tensor")
    if first.numel() == 1:
        return event_fn
    signs = first.sign()
    if not signs.all():
        raise OptionError(
            f"event_fn is zero at the start in {int((signs == 0).sum())} of {first.numel()} elements: which "
            "way they cross is not known"
        )
    return lambda t, y: (event_fn(t, y) * signs).min()


class _Scaled:
    """The problem in units in which every element has the same ``atol``: the error norm sees no other
    difference than the one asked for.
    """

    def __init__(self, func: Func, y0: State, atol: Any) -> None:
        parts = atol if isinstance(y0, tuple) and isinstance(atol, tuple | list) else None
        self.units: Any = None
        if parts is None and (not isinstance(atol, torch.Tensor) or atol.numel() == 1):
            self.func, self.atol = func, _number("atol", atol)
            return
        if parts is not None and len(parts) != len(y0):
            raise ToleranceError(f"atol has {len(parts)} parts, the state {len(y0)}: give one for each")
        given = [torch.as_tensor(x, dtype=torch.float64, device="cpu") for x in (parts or [atol])]
        for x in given:
            if not bool((x > 0).all()):
                raise ToleranceError(f"atol has {int((~(x > 0)).sum())} elements that are not above 0")
        self.atol = max(float(x.max()) for x in given)
        like: Any = y0 if isinstance(y0, tuple) else (y0,)
        if len(given) == 1:
            given = given * len(like)
        units = tuple((self.atol / x).to(y) for x, y in zip(given, like, strict=True))
        self.units = units if isinstance(y0, tuple) else units[0]
        self.func = lambda t, y: self.enter(func(t, self.leave(y)))

    def enter(self, y: Any) -> Any:
        return y if self.units is None else _mapped(torch.mul, y, self.units)

    def leave(self, y: Any) -> Any:
        return y if self.units is None else _mapped(torch.div, y, self.units)

    def condition(self, event_fn: Func) -> Func:
        return lambda t, y: event_fn(t, self.leave(y))


def _number(name: str, tolerance: Any) -> float:
    if isinstance(tolerance, torch.Tensor) and tolerance.numel() == 1:
        tolerance = tolerance.item()
    if isinstance(tolerance, torch.Tensor | tuple | list):
        raise OptionError(
            f"{name} = {short(tolerance)} is not served here: give one number; atol may have one for each "
            "element of the state"
        )
    return float(tolerance)


def _row(y: Any) -> torch.Tensor:
    row: torch.Tensor = y.unsqueeze(0)
    return row


def _mapped(function: Callable[..., torch.Tensor], *states: Any) -> Any:
    """The function of tensors, or part by part of tuples or lists of them."""
    if isinstance(states[0], torch.Tensor):
        return function(*states)
    return tuple(function(*parts) for parts in zip(*states, strict=True))
