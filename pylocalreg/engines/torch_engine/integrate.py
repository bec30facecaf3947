"""The time loop: steps, rejections, dense output at the asked times, and the record of it all."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
import torch

from pylocalreg.engines.base import Keep, Problem, Quantity, Trajectory, Watch
from pylocalreg.engines.torch_engine.controller import Control, Scalar, control
from pylocalreg.engines.torch_engine.initial_step import initial_step
from pylocalreg.engines.torch_engine.landing import evened
from pylocalreg.engines.torch_engine.method import Stepper
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.one_sided import on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide, raise_if_not_finite
from pylocalreg.engines.torch_engine.working_memory import keep_working_memory
from pylocalreg.errors import NonFiniteError, StepLimitError, StepUnderflowError

SCALARS: dict[torch.dtype, type[Scalar]] = {torch.float32: np.float32, torch.float64: np.float64}

OnStep = Callable[[float, float, Stepper], None]
"""Called with start and end of each accepted step."""


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def integrate(
    f: RightHandSide,
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    keep: Keep,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
) -> Trajectory:
    """Solve u' = f(t, u) over ``problem.tspan``; ``times`` are ordered along the span and lie in it.
    ``watch`` may end it earlier.

    Step for step the loop of OrdinaryDiffEqCore (loopheader!, perform_step!, loopfooter!).

    Raises:
        NonFiniteError: the state or the dynamics is NaN or infinite.
        StepUnderflowError: the step no longer moves the time, or is shorter than dtmin.
        StepLimitError: ``problem.maxiters`` steps were tried.
    """
    keep_working_memory(u0)
    method, steps = METHODS[problem.solver], problem.steps
    T = SCALARS[u0.dtype]
    t, t_end = T(problem.tspan[0]), T(problem.tspan[1])
    direction = np.sign(t_end - t)
    dtmin, dtmax = T(steps.dtmin or 0), abs(t_end - t) if steps.dtmax is None else T(steps.dtmax)
    floor = dtmin if direction > 0 else T(0)  # backwards in time the stack bounds its proposals alone
    stop = T(problem.stop_after(float(t)))
    dt = initial_step(f, problem, method.order, t, u0) if problem.dt is None else T(problem.dt)
    if f.diffusion is not None and problem.adaptive:
        dt = direction * min(abs(dt), abs(stop - t))  # the stack draws the first noise here

    controller: Control | None = None
    if problem.adaptive:
        own, orders = method.constants(steps.beta2), (method.order, method.adaptive_order)
        controller = control(T, steps.controller, own, steps.constants, *orders)
    stepper = method.stepper(f, u0, problem)
    trajectory = Trajectory()
    keeper = _Keeper(keep, trajectory)
    outputs = trajectory.outputs
    while len(outputs) < len(times) and times[len(outputs)] == float(t):
        keeper.save(float(t), u0.clone())

    u, EEst = u0, T(0)
    accepted = False
    spare: torch.Tensor | None = None  # a state nobody keeps, to write the next one into
    for _ in range(problem.maxiters):
        proposed = abs(dt) if controller is None else max(min(abs(dt), dtmax), floor)
        distance = abs(stop - t)
        if steps.landing == "even":
            proposed = evened(proposed, distance, dtmin, dtmax)
        # within rounding of a stop the step lands on it: no micro-step is left over
        lands = not proposed + 100 * np.spacing(max(abs(t), abs(stop))) < distance
        dt = direction * min(proposed, distance)
        too_short = abs(dt) <= dtmin and not (accepted and (lands or direction < 0))
        if t + dt == t or too_short:
            _raise_underflow(f, trajectory, t, dt, u, EEst, steps.dtmin)
        start, h = float(t), float(dt)

        with on_side(f.f, start, h):
            u_new, estimate = stepper.attempt(start, u, h, spare)
            EEst = T(estimate)
            accepted = controller is None or controller.accept(EEst)
            if controller is not None and not accepted:
                stepper.reject()
                trajectory.nreject += 1
                spare = u_new
                dt = controller.propose(dt, EEst, accepted)
                continue

            kept = keeper.accept(start, u, h, float(EEst), stepper)
            t = stop if lands else t + dt
            if on_step is not None:
                on_step(start, float(t), stepper)
            reached = float(t)
            if watch is not None:
                at = partial(_state_at, t=reached, u_new=u_new, stepper=stepper)
                trajectory.ended = watch(start, reached, at)
                reached = reached if trajectory.ended is None else trajectory.ended
            while len(outputs) < len(times) and direction * (times[len(outputs)] - reached) <= 0:
                time = times[len(outputs)]
                keeper.save(time, _state_at(time, float(t), u_new, stepper))
            if trajectory.ended is not None and reached not in times[: len(outputs)]:
                keeper.save(reached, _state_at(reached, float(t), u_new, stepper))
        stepper.accept()
        if t == t_end or trajectory.ended is not None:
            # an error relative to an infinite state is 0: EEst need not show it, and it stays infinite
            if not math.isfinite(float(u_new.sum())):  # or a sum of finite ones overflows
                advice = "take smaller steps" if controller is None else "the solution blows up"
                raise_if_not_finite(u_new, f"the state at t = {float(t):.6g}", advice)
            keeper.finish(u_new)
            if trajectory.ended is not None:
                trajectory.whole_end = float(t)
                next_dt = direction * proposed
                if controller is not None:
                    next_dt = controller.propose(next_dt, EEst, accepted)
                trajectory.proposed_dt = float(next_dt)
            trajectory.calls, trajectory.nf = f.calls, f.nfe - stepper.uncounted
            return trajectory
        spare = None if kept or u is u0 or not method.one_step else u
        u = u_new
        if lands:
            stepper.cross()
            stop = T(problem.stop_after(float(t)))
        if controller is None:
            dt = direction * proposed
        else:
            # after a step that a stop cut short, the stack goes on from its uncut size only at the start
            dt = controller.propose(direction * proposed, EEst, accepted)
            dt = direction * min(max(min(abs(dt), dtmax), dtmin), abs(stop - t))
    raise StepLimitError(
        f"maxiters = {problem.maxiters} steps ({trajectory.naccept} accepted, {trajectory.nreject} rejected) "
        f"reached t = {float(t):.6g} of tspan {problem.tspan}: loosen abstol = {problem.abstol:g} and "
        f"reltol = {problem.reltol:g}, raise maxiters, or regularize the dynamics"
    )


def _state_at(time: float, t: float, u_new: torch.Tensor, stepper: Stepper) -> torch.Tensor:
    """The state at a time within the step that ends at ``t``."""
    return u_new.clone() if time == t else stepper.interpolate(time)


class _Keeper:
    """Writes accepted steps to the trajectory, and keeps of them what was asked for."""

    def __init__(self, keep: Keep, trajectory: Trajectory) -> None:
        self.keep, self.trajectory = keep, trajectory
        self.every, self.checkpoints = 1, 0

    def accept(self, t: float, u: torch.Tensor, dt: float, EEst: float, stepper: Stepper) -> bool:
        """Record a step from (t, u); whether its state is kept."""
        keep, trajectory = self.keep, self.trajectory
        i = trajectory.naccept
        trajectory.t.append(t)
        trajectory.dt.append(dt)
        trajectory.EEst.append(EEst)
        if keep.stiffness:
            trajectory.stiffness.append(stepper.stiffness())
        if keep.stages:
            trajectory.k[i] = stepper.record()
        chosen = False
        if keep.sample is not None:
            quantity: Quantity = "stiffness" if keep.stiffness else "error"
            chosen = keep.sample.offer(i, trajectory.estimate(quantity, i))
        kept = keep.states == "all" or (keep.states != "end" and i % self.every == 0)
        if kept or chosen:
            trajectory.u[i] = u
            trajectory.memory[i] = stepper.memory()
        if not isinstance(keep.states, str) and kept:
            self.checkpoints += 1
            if self.checkpoints > 2 * keep.states:
                self.every *= 2
                self.checkpoints = i // self.every + 1
                self._drop()
        if chosen and keep.states != "all":
            self._drop()
        return i in trajectory.u

    def save(self, time: float, u: torch.Tensor) -> None:
        """An output."""
        self.trajectory.outputs.append(u)
        if self.keep.restarts:  # without the graph that the output is given later, which would hold it
            self.trajectory.saved[time] = u.detach()

    def _drop(self) -> None:
        """Keep the checkpoints and the chosen states alone."""
        keep, trajectory = self.keep, self.trajectory
        wanted = keep.sample.weights if keep.sample is not None else {}
        for i in list(trajectory.u):
            if i not in wanted and (keep.states == "end" or i % self.every):
                del trajectory.u[i], trajectory.memory[i]

    def finish(self, u: torch.Tensor) -> None:
        self.trajectory.u[self.trajectory.naccept] = u


def _raise_underflow(
    f: RightHandSide,
    trajectory: Trajectory,
    t: Scalar,
    dt: Scalar,
    u: torch.Tensor,
    EEst: Scalar,
    dtmin: float | None,
) -> NoReturn:
    where = f"at t = {float(t):.6g} after {trajectory.naccept} accepted steps"
    if not np.isfinite(EEst):
        f.raise_if_not_finite(float(t), u, where)
        raise NonFiniteError(
            f"the dynamics or the state becomes NaN or infinite {where}, however small the step "
            f"(dt = {float(dt):.3g}): the solution blows up or f is not defined beyond this point"
        )
    if t + dt != t:
        raise StepUnderflowError(
            f"dt = {float(dt):.3g} is not above dtmin = {dtmin:g} {where} (EEst = {float(EEst):.3g}): loosen "
            "the tolerances, lower dtmin, or leave it out"
        )
    raise StepUnderflowError(
        f"dt = {float(dt):.3g} no longer moves the time {where} (EEst = {float(EEst):.3g}): the dynamics are "
        "discontinuous, too stiff for this solver, or the tolerances are finer than the dtype resolves"
    )
