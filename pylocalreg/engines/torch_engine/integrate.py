"""The adaptive time loop: steps, rejections, dense output at the asked times, and the record of it all."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch

from pylocalreg.engines.base import Keep, Problem, Trajectory
from pylocalreg.engines.torch_engine.controller import PIController, Scalar
from pylocalreg.engines.torch_engine.dense_output import dense_output
from pylocalreg.engines.torch_engine.explicit_rk import ErrorNorm, add_interpolant_stages, combine
from pylocalreg.engines.torch_engine.initial_step import initial_step, raise_if_not_finite
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import NonFiniteError, StepLimitError, StepUnderflowError

SCALARS: dict[torch.dtype, type[Scalar]] = {torch.float32: np.float32, torch.float64: np.float64}


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def integrate(
    f: RightHandSide, problem: Problem, u0: torch.Tensor, times: Sequence[float], keep: Keep
) -> Trajectory:
    """Solve u' = f(t, u) over ``problem.tspan``; ``times`` are ordered along the span and lie in it.

    Step for step the loop of OrdinaryDiffEqCore (loopheader!, perform_step!, loopfooter!).

    Raises:
        NonFiniteError: the state or the dynamics is NaN or infinite.
        StepUnderflowError: the step no longer moves the time.
        StepLimitError: ``problem.maxiters`` steps were tried.
    """
    tableau = TABLEAUS[problem.solver]
    T = SCALARS[u0.dtype]
    t, t_end = T(problem.tspan[0]), T(problem.tspan[1])
    direction, span = np.sign(t_end - t), abs(t_end - t)
    if problem.dt is None:
        dt = initial_step(f, t, t_end, u0, tableau.order, problem.abstol, problem.reltol)
    else:
        dt = T(problem.dt)

    controller = PIController(tableau.controller_betas, T)
    error_norm = ErrorNorm(u0, problem.abstol, problem.reltol)
    stage, error = torch.empty_like(u0), torch.empty_like(u0)
    trajectory = Trajectory()
    outputs = trajectory.outputs
    while len(outputs) < len(times) and times[len(outputs)] == float(t):
        outputs.append(u0.clone())

    u, EEst = u0, T(0)
    spare: torch.Tensor | None = None  # a state nobody keeps, to write the next one into
    k1 = f.owned(float(t), u) if tableau.fsal else None
    uncounted = 0  # calls for dense output alone, which the stack's nf leaves out
    for _ in range(problem.maxiters):
        distance = abs(t_end - t)
        # within rounding of the end the step lands on it: no micro-step is left over
        last = not abs(dt) + 100 * np.spacing(max(abs(t), abs(t_end))) < distance
        dt = direction * min(abs(dt), distance)
        if t + dt == t:
            _raise_underflow(f, trajectory, t, dt, u, EEst)
        start, h = float(t), float(dt)

        ks = [f.owned(start, u) if k1 is None else k1]
        for c, a in tableau.inner_rows:
            combine(u, a, ks, h, out=stage)
            ks.append(f.owned(start + c * h, stage))
        u_new = combine(u, tableau.b, ks, h, out=spare)
        if tableau.fsal:
            ks.append(f.owned(start + h, u_new))
        combine(None, tableau.btilde, ks, h, out=error)
        EEst = T(error_norm(error, u_new))

        if not EEst <= 1:
            trajectory.nreject += 1
            spare = u_new
            dt = controller.reject(dt, EEst)
            continue

        if tableau.fsal:
            k1 = ks[-1]
        trajectory.t.append(start)
        trajectory.dt.append(h)
        trajectory.EEst.append(float(EEst))
        if keep != "nothing":
            trajectory.u.append(u)
        if keep == "stages":
            uncounted += add_interpolant_stages(f, tableau, start, u, h, ks)
            trajectory.k.append(tuple(ks))
        t = t_end if last else t + dt
        while len(outputs) < len(times) and direction * (times[len(outputs)] - float(t)) <= 0:
            time = times[len(outputs)]
            if time == float(t):
                outputs.append(u_new.clone())
            else:
                uncounted += add_interpolant_stages(f, tableau, start, u, h, ks)
                outputs.append(dense_output(tableau, start, u, h, ks, time))
        if last:
            trajectory.nfe = f.nfe - uncounted
            return trajectory
        spare = u if keep == "nothing" and u is not u0 else None
        u = u_new
        error_norm.advance()
        dt = direction * min(abs(controller.accept(dt, EEst)), span)
    raise StepLimitError(
        f"maxiters = {problem.maxiters} steps ({trajectory.naccept} accepted, {trajectory.nreject} rejected) "
        f"reached t = {float(t):.6g} of tspan {problem.tspan}: loosen abstol = {problem.abstol:g} and "
        f"reltol = {problem.reltol:g}, raise maxiters, or regularize the dynamics"
    )


def _raise_underflow(
    f: RightHandSide, trajectory: Trajectory, t: Scalar, dt: Scalar, u: torch.Tensor, EEst: Scalar
) -> NoReturn:
    where = f"at t = {float(t):.6g} after {trajectory.naccept} accepted steps"
    if not np.isfinite(EEst):
        raise_if_not_finite(f(float(t), u), f"the dynamics {where}", "check the parameters and the input")
        raise NonFiniteError(
            f"the dynamics or the state becomes NaN or infinite {where}, however small the step "
            f"(dt = {float(dt):.3g}): the solution blows up or f is not defined beyond this point"
        )
    raise StepUnderflowError(
        f"dt = {float(dt):.3g} no longer moves the time {where} (EEst = {float(EEst):.3g}): the dynamics are "
        "discontinuous, too stiff for this solver, or the tolerances are finer than the dtype resolves"
    )
