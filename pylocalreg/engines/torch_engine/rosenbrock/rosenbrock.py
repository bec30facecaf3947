"""A tableau as a method: what the time loop and the adjoints ask of it."""

import math

import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity, Trajectory
from pylocalreg.engines.torch_engine.controller import Constants, usual_betas
from pylocalreg.engines.torch_engine.error_norm import ErrorNorm
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.functional import functional
from pylocalreg.engines.torch_engine.linearization import Linearization
from pylocalreg.engines.torch_engine.method import Record
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock.replay import RosenbrockReplay
from pylocalreg.engines.torch_engine.rosenbrock.retake import RosenbrockRetake
from pylocalreg.engines.torch_engine.rosenbrock.step import differentiable_step, estimate_of_stages
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau
from pylocalreg.engines.torch_engine.rosenbrock.tensor_solve import EEST_SINGULAR, LARGEST, RosenbrockSolve

QSTEADY_MAX = 6 / 5  # a step that would shrink by less stays as it is
UNCOMPILED = (
    f"a solve by a Rosenbrock method is compiled whole, from states of up to {LARGEST} numbers in a system, "
    "on the CPU, with the PI controller, without tstops, events and progress, of dynamics that can be traced"
)


class Rosenbrock:
    """A Rosenbrock-Wanner method with the exact Jacobian."""

    one_step = True
    takes_jacobian = True
    estimates: frozenset[Quantity] = frozenset({"error"})

    def __init__(self, tableau: RosenbrockTableau) -> None:
        self.tableau = tableau
        self.name, self.order = tableau.name, tableau.order
        self.adaptive_order = tableau.order - 1 if tableau.adaptive_order is None else tableau.adaptive_order

    def constants(self, beta2: float | None) -> Constants:
        return Constants(*usual_betas(self.order), qsteady_max=QSTEADY_MAX)

    def loop(self, f: RightHandSide, problem: Problem, u0: torch.Tensor) -> RosenbrockSolve | None:
        """Raises JacobianError too: the dynamics are looked at where the solve starts."""
        if problem.jacobian != "system" or u0.numel() > LARGEST:
            return None
        solve = RosenbrockSolve(functional(f.f, problem.params), self.tableau)
        with torch.no_grad():
            f.linearized_again(problem.tspan[0], u0, problem.jacobian)
        return solve

    def stepper(self, f: RightHandSide, u0: torch.Tensor, problem: Problem) -> "RosenbrockStepper":
        if problem.compiled is not None:
            problem.compiled.refuse(f"steps by {self.name}", UNCOMPILED)
        return RosenbrockStepper(f, self.tableau, u0, problem)

    def dense_output(self, t: float, u: torch.Tensor, dt: float, record: Record, time: float) -> torch.Tensor:
        theta = (time - t) / dt
        return combine(u, [theta ** (i + 1) for i in range(len(record))], record, 1.0)

    def dense_velocity(self, t: float, dt: float, record: Record, time: float) -> torch.Tensor:
        """The time derivative of the dense output."""
        theta = (time - t) / dt
        return combine(None, [(i + 1) * theta**i for i in range(len(record))], record, 1 / dt)

    def replay(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> RosenbrockReplay:
        return RosenbrockReplay(f, self.tableau, problem, trajectory)

    def retake(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> RosenbrockRetake:
        return RosenbrockRetake(f, self.tableau, problem, trajectory)

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
        stages, u_new = differentiable_step(f, self.tableau, t, u, dt, problem, gradient)
        return estimate_of_stages(self.tableau, u, u_new, stages, dt, problem)


class RosenbrockStepper:
    """One factorization an attempt. The Jacobian and df/dt outlive a rejection, as in the stack's Rodas5."""

    def __init__(
        self, f: RightHandSide, tableau: RosenbrockTableau, u0: torch.Tensor, problem: Problem
    ) -> None:
        self.f, self.tableau, self.jacobian = f, tableau, problem.jacobian
        self.uncounted = 0
        self.shape = u0.shape
        self.z = u0.new_empty(tableau.stages, u0.numel())
        self.before = [self.z[:i].T for i in range(tableau.stages + 1)]
        """The stages so far, as columns: every sum of them is one product."""
        self.a, self.gamma_C = ([u0.new_tensor(row) for row in rows] for rows in (tableau.a, tableau.gamma_C))
        self.b, self.btilde = u0.new_tensor(tableau.b), u0.new_tensor(tableau.btilde)
        self.error_norm = ErrorNorm(u0, problem.abstol, problem.reltol)
        self.f0: torch.Tensor | None = None
        self.linearization: Linearization | None = None

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        f, tableau = self.f, self.tableau
        self.t, self.u, self.dt = t, u, dt
        if self.f0 is None:
            self.f0 = f.owned(t, u)
        if self.linearization is None:
            self.linearization = f.linearize(t, u, self.jacobian)
        dT, h = self.linearization.dT.reshape(-1), tableau.gamma * dt
        factors = self.linearization.factorize(h)
        self.dense: Record | None = None
        k, flat = self.f0, u.reshape(-1)
        for i in range(tableau.stages):
            if i > 0:
                state = torch.addmv(flat, self.before[i], self.a[i - 1]).view(self.shape)
                k = f.owned(t + tableau.c[i] * dt, state)
            rhs = torch.add(k.reshape(-1), dT, alpha=tableau.d[i] * dt).mul_(h)
            if i > 0:
                rhs.addmv_(self.before[i], self.gamma_C[i - 1])
            self.z[i] = factors.solve(rhs)
        self.f_last = k
        out = None if spare is None else spare.view(-1)
        u_new = torch.addmv(flat, self.before[len(self.b)], self.b, out=out).view(self.shape)
        error = torch.mv(self.before[len(self.btilde)], self.btilde).view(self.shape)
        EEst = self.error_norm(error, u_new)
        if not math.isfinite(EEst) and factors.singular:
            EEst = EEST_SINGULAR
        return u_new, EEst

    def accept(self) -> None:
        self.f0 = self.f_last if self.tableau.fsal else None
        self.linearization = None
        self.error_norm.advance()

    def reject(self) -> None:
        if not self.tableau.fsal:
            self.f0 = None  # the stack evaluates it anew at every attempt

    def cross(self) -> None:
        if self.f0 is not None:
            self.f0 = None
            self.uncounted += 1  # the stack goes on with the last stage

    def record(self) -> Record:
        """The coefficients of the dense output's polynomial."""
        if self.dense is None:
            stages = self.z.view(-1, *self.shape)
            self.dense = tuple(combine(None, row, stages.unbind(), 1.0) for row in self.tableau.dense)
        return self.dense

    def memory(self) -> None:
        return None

    def interpolate(self, time: float) -> torch.Tensor:
        theta = (time - self.t) / self.dt
        record = self.record()
        return combine(self.u, [theta ** (i + 1) for i in range(len(record))], record, 1.0)

    def stiffness(self) -> float:
        raise AssertionError("not among the method's estimates")
