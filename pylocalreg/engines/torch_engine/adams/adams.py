"""VCAB3 and VCABM3 as methods: what the time loop and the adjoints ask of them."""

import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity, Trajectory
from pylocalreg.engines.torch_engine.adams.history import ORDER, History, Slope, is_start
from pylocalreg.engines.torch_engine.adams.replay import AdamsReplay
from pylocalreg.engines.torch_engine.adams.retake import AdamsRetake
from pylocalreg.engines.torch_engine.adams.step import coefficients, hermite, take
from pylocalreg.engines.torch_engine.controller import Constants, usual_betas
from pylocalreg.engines.torch_engine.explicit_rk import EagerAttempt, ExplicitRK
from pylocalreg.engines.torch_engine.method import Record
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS

START = ExplicitRK(TABLEAUS["BS3"])


class Adams:
    """Variable-coefficient Adams of order 3, as OrdinaryDiffEqAdamsBashforthMoulton has it: the first two
    steps are those of BS3, the dense output is the cubic Hermite one.

    Args:
        name: the stack's.
        corrects: Adams-Moulton in PECE form; else Adams-Bashforth.
    """

    order = ORDER
    adaptive_order = ORDER - 1
    one_step = False
    takes_jacobian = False
    estimates: frozenset[Quantity] = frozenset({"error"})

    def __init__(self, name: str, corrects: bool) -> None:
        self.name, self.corrects = name, corrects

    def constants(self, beta2: float | None) -> Constants:
        return Constants(*usual_betas(ORDER))

    def stepper(self, f: RightHandSide, u0: torch.Tensor, problem: Problem) -> "AdamsStepper":
        return AdamsStepper(f, self.corrects, u0, problem)

    def dense_output(self, t: float, u: torch.Tensor, dt: float, record: Record, time: float) -> torch.Tensor:
        u_new, k, k_new = record
        return hermite(u, u_new, k, k_new, dt, (time - t) / dt)

    def replay(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> AdamsReplay:
        return AdamsReplay(f, self.corrects, START, problem, trajectory)

    def retake(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> AdamsRetake:
        return AdamsRetake(f, self.corrects, START, problem, trajectory)

    def estimate(
        self,
        f: RightHandSide,
        quantity: Quantity,
        t: float,
        u: torch.Tensor,
        dt: float,
        problem: Problem,
        gradient: Gradient,
    ) -> torch.Tensor:
        """Of the method's starting step: one step from (t, u) alone has no steps before it."""
        return START.estimate(f, quantity, t, u, dt, problem, gradient)


class AdamsStepper:
    """The two or one evaluations a step, and the slopes of the steps before."""

    def __init__(self, f: RightHandSide, corrects: bool, u0: torch.Tensor, problem: Problem) -> None:
        self.f, self.corrects = f, corrects
        self.uncounted = 0 if corrects else 1  # the stack forgets to count VCAB3's first call
        self.start = EagerAttempt(f, START.tableau, u0, problem)
        self.error_norm = self.start.error_norm
        self.history: History = ()
        self.k: torch.Tensor | None = None

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        f = self.f
        if self.k is None:
            self.k = f.owned(t, u)
        self.t, self.u, self.dt, self.before = t, u, dt, self.history
        slope = Slope(t, u, self.k, dt)
        self.k_new: torch.Tensor | None = None
        if is_start(self.before):
            # the stack keeps the slope of a rejected starting step too, as one of a step of its own
            self.history = (slope, *self.before)
            self.u_new, ks, EEst = self.start(t, u, dt, self.k, spare)
            self.k_new = ks[-1]
            return self.u_new, EEst
        slopes = (self.k, self.before[0].k, self.before[1].k)
        c = coefficients(dt, self.before)
        self.u_new, error = take(self.corrects, u, slopes, c, lambda end: f.owned(t + dt, end), spare)
        EEst = self.error_norm(error, self.u_new)
        return self.u_new, EEst

    def accept(self) -> None:
        k_new = self._slope_at_end()
        if not is_start(self.before):
            assert self.k is not None
            self.history = (Slope(self.t, self.u, self.k, self.dt), self.before[0])
        self.k = k_new
        self.error_norm.advance()

    def reject(self) -> None:
        """The same slope starts the next attempt."""

    def cross(self) -> None:
        self.k = None  # the earlier slopes stay, as in the stack
        self.uncounted += 1

    def record(self) -> Record:
        assert self.k is not None
        return self.u_new, self.k, self._slope_at_end()

    def memory(self) -> History:
        return self.before

    def interpolate(self, time: float) -> torch.Tensor:
        record = self.record()
        return VCAB3.dense_output(self.t, self.u, self.dt, record, time)

    def stiffness(self) -> float:
        raise NotImplementedError  # not among the estimates

    def _slope_at_end(self) -> torch.Tensor:
        """f at the new state: of an accepted step alone, and once."""
        if self.k_new is None:
            self.k_new = self.f.owned(self.t + self.dt, self.u_new)
        return self.k_new


VCAB3 = Adams("VCAB3", corrects=False)
VCABM3 = Adams("VCABM3", corrects=True)
