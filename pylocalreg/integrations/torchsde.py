"""torchsde's call: ``from pylocalreg.integrations.torchsde import sdeint`` in place of
``from torchsde import sdeint``, and a ``regularizer=``.

What torchsde has and this has not is refused by name; docs/drop-ins.md has the table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import short
from pylocalreg.errors import OptionError, SaveAtError, ShapeError
from pylocalreg.integrations.options import solver_of
from pylocalreg.neural_sde import NeuralSDE, Noise
from pylocalreg.regularizers import Regularizer

ITO = {"euler": "EM", "milstein": "RKMilCommute", "srk": "SOSRI2"}
ABSENT_ITO = dict.fromkeys(
    ("euler_heun", "heun", "midpoint", "log_ode", "reversible_heun", "adjoint_reversible_heun"), "srk"
)
STRATONOVICH = {"heun": "EulerHeun", "euler_heun": "EulerHeun"}
ABSENT_STRATONOVICH = {name: "heun" for name in (*ITO, *ABSENT_ITO) if name not in STRATONOVICH}

Side = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def sdeint(
    sde: Any,
    y0: torch.Tensor,
    ts: torch.Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Any = None,
    *,
    regularizer: Regularizer | None = None,
) -> Any:
    """torchsde's ``sdeint``: the states at the times ``ts``, shape ``(len(ts), batch, channels)``, the first
    ``y0``. The gradient is the exact one of the steps taken.

    Args:
        sde: with ``sde_type``, ``noise_type``, and ``f(t, y)`` and ``g(t, y)``, or ``f_and_g``. Noise is
            "diagonal", "scalar", or of another type with one Wiener process, g of shape (batch, channels, 1).
        bm: the Brownian motion, a ``torchsde.BrownianInterval`` say, of which "srk" asks a space-time Levy
            area; or a `BrownianPath`. By default drawn from torch's global generator.
        method: of Ito SDEs "euler" (EM, the diffusion at the state after the drift's step), "milstein"
            (RKMilCommute, without derivatives) or "srk" (SOSRI2, the default); of Stratonovich SDEs "heun"
            or "euler_heun" (both EulerHeun, the default, which is "heun"; LambaEulerHeun where the steps are
            adaptive). The names of pylocalreg's own serve too.
        dt: the size of fixed steps, the first one of adaptive ones.
        rtol, atol: of adaptive steps, which the stack's estimates choose: their number grows like
            1/tolerance, so that 1e-2 is a tight one, and torchsde's defaults soon meet ``dt_min``.
        dt_min: where an adaptive step would have to be shorter, `StepUnderflowError`. torchsde takes such a
            step with a warning, whatever its error.
        options: ``grad_free=True`` for "milstein".
        names: of drift, diffusion and prior drift, where they are not f, g and h.
        logqp: also give 1/2 int |(f - h) / g|^2 dt between the times, shape ``(len(ts) - 1, batch)``.
        extra, extra_solver_state: not served.
        regularizer: what else is computed of the solve, ``plr.LocalRegularizer("biased")`` say. For methods
            with an error estimate: not "euler", nor "heun" with fixed steps.

    Returns:
        The states; then, where they are asked for, the log ratios, and the regularizer's value, a scalar
        tensor to be added to the loss: ``ys, R = sdeint(..., regularizer=...)``.

    Raises:
        OptionError: what is not served, by name.
        LocalRegError: whatever `NeuralSDE` raises.
    """
    if extra or extra_solver_state is not None:
        raise OptionError("extra, extra_solver_state: these methods keep no state beside y")
    if not isinstance(y0, torch.Tensor) or y0.dim() != 2:
        got = tuple(y0.shape) if isinstance(y0, torch.Tensor) else type(y0).__name__
        raise ShapeError(f"y0 is of shape {got}: give a tensor of shape (batch, channels)")
    times = _times(ts)
    problem = _Problem(sde, y0, times[0], bm, names or {})
    if logqp:
        problem.add_log_ratio()
    state = torch.cat([y0, y0.new_zeros(len(y0), 1)], 1) if logqp else y0
    solver = _solver(problem.sde_type, method, adaptive, options or {})
    path = None if bm is None else _path(bm, times, problem.noise, state, solver)
    nsde = NeuralSDE(
        problem.f,
        problem.g,
        (times[0], times[-1]),
        solver=solver,
        noise=problem.noise,
        abstol=float(atol),
        reltol=float(rtol),
        saveat=times[1:],
        dt=min(float(dt), times[-1] - times[0]),
        adaptive=adaptive,
        dtmin=float(dt_min) if adaptive else None,
        regularizer=regularizer,
        engine="torch",
        params=tuple(sde.parameters()) if isinstance(sde, torch.nn.Module) else (),
    )
    solution = nsde(state, noise=path, regularize=regularizer is not None)
    ys = torch.cat([state.unsqueeze(0), solution.u])
    answer = [ys] if not logqp else [ys[..., :-1], ys[..., -1].diff(dim=0)]
    if regularizer is not None:
        answer.append(solution.regularization)
    return answer[0] if len(answer) == 1 else tuple(answer)


def _times(ts: Any) -> list[float]:
    times = [float(t) for t in (ts.detach().tolist() if isinstance(ts, torch.Tensor) else ts)]
    if isinstance(ts, torch.Tensor) and ts.requires_grad:
        raise OptionError("ts wants a gradient: paths of SDEs have no derivative by time; give ts.detach()")
    if len(times) < 2 or any(b <= a for a, b in pairwise(times)):
        raise SaveAtError(f"ts = {short(ts)}: give two or more times in strictly rising order")
    return times


def _solver(sde_type: str, method: str | None, adaptive: bool, options: Mapping[str, Any]) -> str:
    ito = sde_type == "ito"
    if ito:
        solver = solver_of(method or "srk", ITO, ABSENT_ITO)
    else:
        solver = solver_of(method or "heun", STRATONOVICH, ABSENT_STRATONOVICH)
    for name, value in options.items():
        if name != "grad_free" or solver != "RKMilCommute" or value is not True:
            raise OptionError(
                f"option {name} = {short(value)} is not served here with method={method!r}: there is "
                "grad_free=True for 'milstein'"
            )
    return "LambaEulerHeun" if solver == "EulerHeun" and adaptive else solver


class _Problem:
    """Drift and diffusion as `NeuralSDE` takes them: both of the state's shape."""

    def __init__(self, sde: Any, y0: torch.Tensor, start: float, bm: Any, names: Mapping[str, str]) -> None:
        unknown = set(names) - {"drift", "diffusion", "prior_drift"}
        if unknown:
            raise OptionError(f"names has {sorted(unknown)}: there are drift, diffusion and prior_drift")
        self.sde_type = _attribute(sde, "sde_type", ("ito", "stratonovich"))
        noise_type = _attribute(sde, "noise_type", ("diagonal", "scalar", "additive", "general"))
        f, g = (getattr(sde, names.get(*name), None) for name in (("drift", "f"), ("diffusion", "g")))
        both = getattr(sde, "f_and_g", None)
        if both is not None and not names:
            f, g = (lambda t, y: both(t, y)[0]) if f is None else f, g or (lambda t, y: both(t, y)[1])
        if f is None or g is None:
            raise OptionError(
                f"the sde, a {type(sde).__name__}, has no {'drift f' if f is None else 'diffusion g'}(t, y): "
                "give one, or f_and_g; g_prod and f_and_g_prod alone are not served here"
            )
        self.h = getattr(sde, names.get("prior_drift", "h"), None)
        self.f: Side = f
        self.noise: Noise = "diagonal" if noise_type == "diagonal" else "scalar"
        if noise_type == "diagonal":
            self.g: Side = g
            return
        if noise_type != "scalar":
            with torch.no_grad():
                spread = tuple(g(y0.new_tensor(start), y0).shape)
            if len(spread) != 3 or spread[-1] != 1:
                raise OptionError(
                    f"noise_type = {noise_type!r} with a diffusion of shape {spread}: only one Wiener "
                    "process, (batch, channels, 1), is served here, and diagonal noise"
                )
        self.g = lambda t, y: g(t, y).squeeze(-1)

    def add_log_ratio(self) -> None:
        """A last channel for 1/2 int |(f - h) / g|^2 dt, the rate at which the laws of the SDE and its prior
        part.
        """
        f, g, h = self.f, self.g, self.h
        if h is None:
            raise OptionError("logqp=True: the sde has no prior drift h(t, y), nor is one in names")
        diagonal = self.noise == "diagonal"

        def drift(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            y = y[:, :-1]
            of_f, of_g = f(t, y), g(t, y)
            apart = of_f - h(t, y)
            if diagonal:
                small = of_g.detach().abs() <= 1e-7  # as torchsde bounds it
                u = apart / torch.where(small, 1e-7 * of_g.sign(), of_g)
            else:
                u = (of_g * apart).sum(1, keepdim=True) / of_g.square().sum(1, keepdim=True)
            return torch.cat([of_f, u.square().sum(1, keepdim=True) / 2], 1)

        def diffusion(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            of_g = g(t, y[:, :-1])
            return torch.cat([of_g, torch.zeros_like(of_g[:, :1])], 1)

        self.f, self.g = drift, diffusion


def _attribute(sde: Any, name: str, values: tuple[str, ...]) -> str:
    value = getattr(sde, name, None)
    if value not in values:
        raise OptionError(f"the sde's {name} is {short(value)}: it must be one of {values}")
    return str(value)


def _path(bm: Any, times: Sequence[float], noise: Noise, y0: torch.Tensor, solver: str) -> BrownianPath:
    if isinstance(bm, BrownianPath):
        return bm
    if not callable(bm) or not hasattr(bm, "shape"):
        raise OptionError(f"bm is a {type(bm).__name__}: give a torchsde.BrownianInterval or a BrownianPath")
    area = solver in ("SOSRI", "SOSRI2", "SRIW1")
    if area and getattr(bm, "levy_area_approximation", "none") == "none":
        raise OptionError(
            f"bm has no Levy area, which {solver} takes: give levy_area_approximation='space-time'"
        )
    shape = torch.Size((len(y0), 1 if noise == "scalar" else y0.shape[1]))
    if tuple(bm.shape) != tuple(shape):
        raise ShapeError(f"bm is of shape {tuple(bm.shape)}: {noise} noise takes {tuple(shape)} here")
    return _Motion(bm, times, shape, y0.dtype, y0.device)


class _Motion(BrownianPath):
    """torchsde's Brownian motion as the path of a solve."""

    def __init__(
        self, bm: Any, times: Sequence[float], shape: torch.Size, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(times[0], shape, seed=0, dtype=dtype, device=device)
        self.bm, self.end = bm, times[-1]

    def dW(self, start: float, end: float) -> torch.Tensor:
        return self._of(self.bm(start, min(end, self.end)))

    def dZ(self, start: float, end: float) -> torch.Tensor:
        """From U, the integral of W - W(start) over the step."""
        end = min(end, self.end)
        dW, U = self.bm(start, end, return_U=True)
        return self._of((U / (end - start) - dW / 2) * (2 * math.sqrt(3)))

    def _of(self, increment: torch.Tensor) -> torch.Tensor:
        return increment.to(self.device, self.dtype)
