"""One case on one engine, and the same of the golden numbers."""

from dataclasses import dataclass

import numpy as np
import torch

from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Engine, Keep, Problem
from pylocalreg.errors import OptionError
from pylocalreg.parity.cases import Case


@dataclass(frozen=True)
class Measured:
    """What is compared; None where it was not computed.

    Attributes:
        nf: calls of the dynamics as the stack counts them.
        t, dt, EEst: of the accepted steps.
        u: the state at the end.
        R: EEst |dt| of the step from (tau, u(tau)) of size ``dt_at_tau``; ``R_by_p`` its gradient.
        by_u0, by_p: gradients of the sum over u at the end.
    """

    who: str
    naccept: int
    nreject: int
    nf: int
    t: list[float]
    dt: list[float]
    EEst: list[float]
    u: torch.Tensor
    R: torch.Tensor | None
    R_by_p: torch.Tensor | None
    by_u0: torch.Tensor | None
    by_p: torch.Tensor | None
    dt_at_tau: float | None


def measure(case: Case, name: str, dt_at_tau: float | None = None) -> Measured:
    """Run a case on the engine of this name. The step at tau is by default of the size that the solve
    took there.
    """
    engine = get_engine(name)
    module = case.dynamics()
    problem = Problem(module, (module.p,), case.tspan, case.solver, case.tol, case.tol, 1_000_000)
    end = case.tspan[1]
    trajectory = engine.solve(problem, case.u0, [end], Keep("all", stages=True))
    u = trajectory.outputs[0]
    u_tau = engine.interpolate(problem, trajectory, case.tau)
    dt = trajectory.dt[trajectory.step_at(case.tau)] if dt_at_tau is None else dt_at_tau
    remaining = case.tspan[1] - case.tau
    dt = remaining if abs(remaining) < abs(dt) else dt
    R, R_by_p = _regularizer(engine, problem, case, module.p, u_tau, dt)
    by_u0, (by_p,) = engine.pull_back(problem, trajectory, "interpolating", [(end, torch.ones_like(u))], [])
    return Measured(
        name,
        trajectory.naccept,
        trajectory.nreject,
        trajectory.nf,
        list(trajectory.t),
        list(trajectory.dt),
        list(trajectory.EEst),
        u,
        R,
        R_by_p,
        by_u0,
        by_p,
        dt,
    )


def _regularizer(
    engine: Engine, problem: Problem, case: Case, p: torch.Tensor, u: torch.Tensor, dt: float
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    try:
        engine.check_estimate(case.solver, "error")
    except OptionError:
        return None, None
    with torch.enable_grad():
        value, _ = engine.estimate(problem, "error", case.tau, u, dt, "exact")
        (by_p,) = torch.autograd.grad(value, [p])
    return value.detach(), by_p


def golden(case: Case) -> Measured:
    """The golden numbers of a case that has them."""
    arrays = case.golden
    assert arrays is not None
    t = [float(x) for x in arrays["t"]]
    R = R_by_p = dt = None
    if "reg_eest_solver" in arrays:
        dt = float(arrays["reg_dt_solver"][0])
        R = torch.tensor(float(arrays["reg_eest_solver"][0]) * dt, dtype=torch.float64)
        R_by_p = torch.from_numpy(np.ascontiguousarray(arrays["reg_grad_full_solver"][:, 0]))
    return Measured(
        "golden",
        int(arrays["naccept"]),
        int(arrays["nreject"]),
        int(arrays["nf"]),
        t[:-1],
        np.diff(t).tolist(),
        [float(x) for x in arrays["eest"]],
        torch.from_numpy(np.ascontiguousarray(arrays["u_end"].T)),
        R,
        R_by_p,
        None,
        None,
        dt,
    )
