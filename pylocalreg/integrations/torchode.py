"""torchode's calls: ``from pylocalreg.integrations.torchode import solve_ivp``, or ``AutoDiffAdjoint``, in
place of torchode's, and a ``regularizer=``.

torchode's own terms, methods, controllers and problems are read as they are. The steps are common to the
batch here; docs/drop-ins.md has the table of what differs, and of what is refused by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pylocalreg.checks import short
from pylocalreg.errors import OptionError, SaveAtError, ShapeError
from pylocalreg.integrations.options import solver_of
from pylocalreg.neural_ode import NeuralODE
from pylocalreg.regularizers import Regularizer

METHODS = {"tsit5": "Tsit5", "dopri5": "DP5", "euler": "Euler"}
ABSENT_METHODS = {"heun": "BS3"}
ORDER = 5
"""Of torchode's adaptive methods, by which its controllers divide their coefficients."""


@dataclass(frozen=True, eq=False)
class Solution:
    """torchode's solution: the states ``ys``, shape ``(batch, times, features)``, at ``ts``; statistics and a
    status (0: success; what is none is raised), a number for each sample, the same for all: they step
    together.
    """

    ts: torch.Tensor
    ys: torch.Tensor
    stats: dict[str, torch.Tensor]
    status: torch.Tensor


def solve_ivp(
    f: Any,
    y0: torch.Tensor,
    t_eval: torch.Tensor | None,
    *,
    t_span: tuple[torch.Tensor, torch.Tensor] | None = None,
    method: Any = "tsit5",
    max_steps: int | None = None,
    controller: Any = None,
    dt0: torch.Tensor | None = None,
    args: Any = None,
    regularizer: Regularizer | None = None,
) -> Any:
    """torchode's ``solve_ivp``.

    Args:
        f: the dynamics ``f(t, y)``, ``t`` of shape (batch,), with ``args`` ``f(t, y, args)``; or an ODETerm.
        y0: shape (batch, features).
        t_eval: the times, shape (times,) or (batch, times): samples may have different ones.
        t_span: start and end, numbers or one for each sample, where they are not the first and last of
            ``t_eval``.
        method: "tsit5", "dopri5", "euler", a method object of torchode's, or any solver of the embedded
            engine.
        controller: torchode's. By default a PIDController with tolerances of 1e-7 and the coefficients 0.2,
            0.5 and 0.
        dt0: the first step; with a FixedStepController the size of all.
        regularizer: what else is computed of the solve, ``plr.LocalRegularizer("biased")`` say.

    Returns:
        A `Solution`; with a regularizer its value too, a scalar tensor to be added to the loss:
        ``solution, R = solve_ivp(..., regularizer=...)``.

    Raises:
        OptionError: what is not served, by name.
        LocalRegError: whatever `NeuralODE` raises.
    """
    if y0.dim() != 2:
        raise ShapeError(f"y0 is of shape {tuple(y0.shape)}: give (batch, features)")
    samples = len(y0)
    if t_eval is not None:
        t_eval = t_eval.to(y0.device).expand(samples, -1)
    if t_span is None:
        if t_eval is None:
            raise SaveAtError("neither t_eval nor t_span says when: give one of them")
        t_span = t_eval[:, 0], t_eval[:, -1]
    like = y0 if t_eval is None else t_eval
    start, end = (torch.as_tensor(t, dtype=like.dtype, device=y0.device).expand(samples) for t in t_span)
    span = _Span(start, end, t_eval)
    solver, options = _solver(method), _steps(controller, dt0, span)
    if max_steps is not None:
        options["maxiters"] = max_steps
    node = NeuralODE(
        span.dynamics(_called(f, args)),
        span.tspan,
        solver=solver,
        saveat=span.saveat,
        regularizer=regularizer,
        engine="torch",
        **options,
    )
    solution = node(y0, regularize=regularizer is not None)
    counts = {
        "n_f_evals": solution.stats.nfe - solution.stats.nfe_regularizer,
        "n_steps": solution.stats.naccept + solution.stats.nreject,
        "n_accepted": solution.stats.naccept,
        "n_initialized": span.ts.shape[1],
    }
    stats = {name: torch.full((samples,), count, device=y0.device) for name, count in counts.items()}
    answer = Solution(span.ts, span.own(solution.u), stats, torch.zeros_like(stats["n_steps"]))
    return answer if regularizer is None else (answer, solution.regularization)


class AutoDiffAdjoint(torch.nn.Module):
    """torchode's ``AutoDiffAdjoint``: a method and a controller that `solve` problems.

    The gradient is the exact one of the steps taken, their sizes held constant.

    Raises:
        OptionError: ``backprop_through_step_size_control=True``.
    """

    def __init__(
        self,
        step_method: Any,
        step_size_controller: Any,
        *,
        max_steps: int | None = None,
        backprop_through_step_size_control: bool = False,
    ) -> None:
        super().__init__()
        if backprop_through_step_size_control:
            raise OptionError(
                "backprop_through_step_size_control=True: the sizes of the steps are held constant here"
            )
        self.step_method, self.step_size_controller = step_method, step_size_controller
        self.max_steps = max_steps

    def solve(
        self,
        problem: Any,
        term: Any = None,
        dt0: torch.Tensor | None = None,
        args: Any = None,
        regularizer: Regularizer | None = None,
    ) -> Any:
        """As `solve_ivp`, of torchode's ``InitialValueProblem``."""
        return solve_ivp(
            getattr(self.step_method, "term", None) if term is None else term,
            problem.y0,
            problem.t_eval,
            t_span=(problem.t_start, problem.t_end),
            method=self.step_method,
            max_steps=self.max_steps,
            controller=self.step_size_controller,
            dt0=dt0,
            args=args,
            regularizer=regularizer,
        )


class _Span:
    """Time that is common to the samples: their own where all have one span, else the share of it."""

    def __init__(self, start: torch.Tensor, end: torch.Tensor, t_eval: torch.Tensor | None) -> None:
        if any(t is not None and t.requires_grad for t in (start, end, t_eval)):
            raise OptionError(
                "t_eval or t_span want a gradient: detach them; plr.NeuralODE has gradients by time"
            )
        self.ts = end.unsqueeze(1) if t_eval is None else t_eval
        common = bool((start == start[0]).all() and (end == end[0]).all())
        if common:
            self.start, self.length = torch.zeros_like(start), torch.ones_like(start)
            self.tspan = float(start[0]), float(end[0])
        else:
            self.start, self.length = start, end - start
            self.tspan = 0.0, 1.0
        shares = ((self.ts - self.start.unsqueeze(1)) / self.length.unsqueeze(1)).double()
        backwards = self.tspan[1] < self.tspan[0]
        times, self.rows = torch.unique(-shares if backwards else shares, return_inverse=True)
        self.saveat = (-times if backwards else times).clamp(min(self.tspan), max(self.tspan)).tolist()

    def dynamics(self, f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
        start, length = self.start, self.length

        def common(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return f(start + t.to(start.dtype) * length, y) * length.to(y.dtype).unsqueeze(1)

        return common

    def own(self, u: torch.Tensor) -> torch.Tensor:
        """Of the states at all times, (times, batch, features), each sample's at its own."""
        samples = torch.arange(u.shape[1], device=u.device).unsqueeze(1)
        return u[self.rows, samples]

    def size(self, name: str, dt: Any) -> float:
        """A step's size in common time."""
        share = torch.as_tensor(dt, dtype=torch.float64, device=self.length.device) / self.length.abs()
        share = share.abs().expand(len(self.length))
        if not bool(torch.allclose(share, share[0])):
            raise OptionError(
                f"{name} = {short(dt)}: samples step together here, by the same share of their spans; give "
                "sizes in proportion to those"
            )
        return float(share[0])


def _called(f: Any, args: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """f(t, y) of a function, or of torchode's ODETerm."""
    with_args = getattr(f, "with_args", args is not None)
    called = f.f if hasattr(f, "with_args") else f
    if not callable(called):
        raise OptionError(f"the dynamics are a {type(f).__name__}: give f(t, y) or an ODETerm, as term= say")
    return (lambda t, y: called(t, y, args)) if with_args else called


def _solver(method: Any) -> str:
    name = method if isinstance(method, str) else type(method).__name__.lower()
    return solver_of(name, METHODS, ABSENT_METHODS)


def _steps(controller: Any, dt0: Any, span: _Span) -> dict[str, Any]:
    """`NeuralODE`'s arguments for torchode's controller."""
    options: dict[str, Any] = {} if dt0 is None else {"dt": span.size("dt0", dt0)}
    kind = "PIDController" if controller is None else type(controller).__name__
    if kind == "FixedStepController":
        if dt0 is None:
            raise OptionError("a FixedStepController without dt0: give the steps' size")
        return options | {"adaptive": False}
    if controller is None:
        return options | {"abstol": 1e-7, "reltol": 1e-7, "beta1": 0.7 / ORDER, "beta2": 0.2 / ORDER}
    if kind not in ("IntegralController", "PIDController"):
        raise OptionError(f"controller = a {kind}: there are Integral-, PID- and FixedStepController here")
    if getattr(controller.norm, "__name__", "") != "rms_norm":
        raise OptionError("the controller's norm is not rms_norm, which alone is served here")
    if getattr(controller, "dcoeff", 0.0) != 0:
        raise OptionError(f"dcoeff = {controller.dcoeff}: the controller here is a PI one, give dcoeff=0")
    p, i = getattr(controller, "pcoeff", 0.0), getattr(controller, "icoeff", 1.0)
    for name, ours in (("dt_min", "dtmin"), ("dt_max", "dtmax")):
        value = getattr(controller, name)
        if value is not None:
            options[ours] = span.size(name, value)
    return options | {
        "abstol": float(controller.atol),
        "reltol": float(controller.rtol),
        "beta1": (p + i) / ORDER,
        "beta2": p / ORDER,
        "gamma": controller.safety,
        "qmin": controller.factor_min,
        "qmax": controller.factor_max,
    }
