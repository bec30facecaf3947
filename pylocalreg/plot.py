"""Pictures of a solve and of a training run. They need matplotlib: pip install 'pylocalreg[plot]'.

Each function draws on ``axis``, or on a new one, and gives it back; colours are those of matplotlib's style,
light or dark.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pylocalreg.checks import check_number, short
from pylocalreg.errors import OptionError
from pylocalreg.neural_ode import NeuralODE
from pylocalreg.solution import Solution

SMALLEST = 1e-8
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


def steps(solution: Solution, axis: Any = None, **style: Any) -> Any:
    """The sizes of the accepted steps along t, as a staircase on a logarithmic axis."""
    t, dt = solution.steps.t, solution.steps.dt
    axis = _axis(axis)
    axis.stairs(np.abs(dt), np.append(t, t[-1] + dt[-1]), baseline=None, **{"linewidth": 1.5, **style})
    axis.set(xlabel="t", ylabel="|dt|", yscale="log", title=f"{len(t)} steps, {solution.stats.nfe} NFE")
    return axis


def errors(solution: Solution, axis: Any = None, **style: Any) -> Any:
    """EEst of each accepted step at the step's middle, what is below 1e-8 as 1e-8; a step above the line at 1
    is rejected.

    Raises:
        OptionError: the method's steps have no estimate.
    """
    t, dt, EEst = solution.steps.t, solution.steps.dt, solution.steps.EEst
    if not np.isfinite(EEst).all():
        raise OptionError("the solution's steps have no error estimate: its method takes fixed steps")
    axis = _axis(axis)
    axis.plot(
        t + dt / 2, np.maximum(EEst, SMALLEST), **{"marker": "o", "markersize": 4, "linewidth": 1, **style}
    )
    _line(axis, 1, "rejected", at=0.01)
    axis.set(
        xlabel="t",
        ylabel="EEst",
        yscale="log",
        ylim=(None, 10),
        title=f"{solution.stats.nreject} steps rejected",
    )
    return axis


def training(
    history: Sequence[Mapping[str, float]], axis: Any = None, *, target: float | None = None, **style: Any
) -> Any:
    """NFE over training, from `Monitor`'s history; ``target`` draws a budget's.

    Raises:
        OptionError: the history has no step.
    """
    if not history:
        raise OptionError("the history is empty: give monitor.history after training")
    axis = _axis(axis)
    nfe = [row["nfe"] for row in history]
    axis.plot([row["step"] for row in history], nfe, **{"linewidth": 1.5, **style})
    if target is not None:
        _line(axis, check_number("target", target), f"target {target:g}", at=0.99)
    axis.set(xlabel="training step", ylabel="NFE of a solve", ylim=(0, None))
    return axis


def work_precision(
    node: NeuralODE,
    u0: torch.Tensor,
    axis: Any = None,
    *,
    tolerances: Sequence[float] = TOLERANCES,
    reference: float | None = None,
    **style: Any,
) -> Any:
    """NFE against the error at the end of the span, one point for each tolerance, of a trained model.

    Args:
        node: with its own solver and span. It is solved with ``abstol = reltol`` of each tolerance, and is
            itself not changed.
        u0: the initial state.
        reference: the tolerance of the solve that errors are measured from, by default a hundredth of the
            smallest; in float64, which the model and the state are copied to.

    The error is the root mean square of the difference over that of the reference's state.

    Raises:
        OptionError: fewer than two tolerances, or a node of fixed steps.
    """
    if len(tolerances) < 2 or not node.adaptive:
        raise OptionError(f"tolerances = {short(tolerances)}: give two or more, and a node of adaptive steps")
    finest = min(tolerances) / 100 if reference is None else reference
    right = _solve(node, u0, finest).u
    size = right.square().mean().sqrt()
    points = []
    for tolerance in sorted(tolerances):
        solution = _solve(node, u0, tolerance)
        points.append((float((solution.u - right).square().mean().sqrt() / size), solution.stats.nfe))
    axis = _axis(axis)
    x, y = zip(*points, strict=True)
    axis.plot(x, y, **{"marker": "o", "markersize": 4, "linewidth": 1.5, **style})
    axis.set(xlabel="relative error at the end", ylabel="NFE", xscale="log", yscale="log")
    axis.set_title(f"{node.solver}, tolerances from {max(tolerances):g} to {min(tolerances):g}")
    return axis


def _line(axis: Any, height: float, caption: str, at: float) -> None:
    """A dashed line over the whole width, in the colour of the axis' text."""
    color = axis.xaxis.label.get_color()
    axis.axhline(height, color=color, linestyle="--", linewidth=1)
    axis.annotate(
        caption,
        (at, height),
        (0, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right" if at > 0.5 else "left",
        color=color,
        fontsize="small",
    )


def _solve(node: NeuralODE, u0: torch.Tensor, tolerance: float) -> Solution:
    model = copy.deepcopy(node).double().eval()
    model.abstol = model.reltol = tolerance
    with torch.no_grad():
        solution: Solution = model(u0.double())
    return solution


def _axis(axis: Any) -> Any:
    if axis is not None:
        return axis
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise OptionError(f"plots need {error.name}: pip install 'pylocalreg[plot]'") from error
    return plt.subplots(layout="constrained")[1]
