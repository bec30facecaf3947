"""The state between two accepted steps, by the method's own interpolant."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Trajectory
from pylocalreg.engines.torch_engine.explicit_rk import combine
from pylocalreg.engines.torch_engine.tableaus import Tableau


def dense_output(
    tableau: Tableau, t: float, u: torch.Tensor, dt: float, ks: Sequence[torch.Tensor], time: float
) -> torch.Tensor:
    """u(time) inside the step of size ``dt`` from (t, u) with stages ``ks``."""
    return combine(u, tableau.interpolant_weights((time - t) / dt), ks, dt)


def trajectory_at(tableau: Tableau, trajectory: Trajectory, time: float) -> torch.Tensor:
    """u(time) of a trajectory that keeps its stages."""
    i = trajectory.step_at(time)
    return dense_output(tableau, trajectory.t[i], trajectory.u[i], trajectory.dt[i], trajectory.k[i], time)
