"""Adjoints: how cotangents of the solution become gradients of u0 and the parameters."""

from collections.abc import Callable, Sequence

import torch

from pylocalreg.engines.base import Adjoint, Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.adjoints.backsolve import Backsolve
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint
from pylocalreg.engines.torch_engine.adjoints.discrete import discrete
from pylocalreg.engines.torch_engine.adjoints.gauss import Gauss
from pylocalreg.engines.torch_engine.adjoints.interpolating import Interpolating
from pylocalreg.engines.torch_engine.adjoints.quadrature import Quadrature

CONTINUOUS: dict[Adjoint, Callable[[Problem, Trajectory], ContinuousAdjoint]] = {
    "backsolve": Backsolve,
    "gauss": Gauss,
    "interpolating": Interpolating,
    "quadrature": Quadrature,
}
ADJOINTS: tuple[Adjoint, ...] = ("discrete", *CONTINUOUS)


def pull_back(
    problem: Problem,
    trajectory: Trajectory,
    adjoint: Adjoint,
    cotangents: Sequence[tuple[float, torch.Tensor]],
    steps: Sequence[StepCotangent],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients by u0 and the parameters."""
    if adjoint == "discrete":
        return discrete(problem, trajectory, cotangents, steps)
    return CONTINUOUS[adjoint](problem, trajectory).gradients(cotangents, steps)


__all__ = ["ADJOINTS", "pull_back"]
