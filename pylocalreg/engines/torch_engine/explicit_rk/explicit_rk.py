"""A tableau as a method: what the time loop and the adjoints ask of it."""

import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity, Trajectory
from pylocalreg.engines.torch_engine.controller import Constants, usual_betas
from pylocalreg.engines.torch_engine.error_norm import stiffness
from pylocalreg.engines.torch_engine.explicit_rk.attempt import Attempt
from pylocalreg.engines.torch_engine.explicit_rk.compiled import attempts
from pylocalreg.engines.torch_engine.explicit_rk.compiled_estimate import compiled_estimate
from pylocalreg.engines.torch_engine.explicit_rk.computed import with_gradients
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import narrow_chain
from pylocalreg.engines.torch_engine.explicit_rk.narrow_estimate import narrow_estimate
from pylocalreg.engines.torch_engine.explicit_rk.narrow_stepper import NarrowStepper
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.retake import ExplicitRKRetake
from pylocalreg.engines.torch_engine.explicit_rk.reversed_at_once import replay
from pylocalreg.engines.torch_engine.explicit_rk.step import add_interpolant_stages, combine, estimate_of_step
from pylocalreg.engines.torch_engine.explicit_rk.tensor_solve import TensorSolve
from pylocalreg.engines.torch_engine.functional import functional
from pylocalreg.engines.torch_engine.method import Record, Stepper
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class ExplicitRK:
    """An explicit Runge-Kutta method."""

    one_step = True
    takes_jacobian = False

    def __init__(self, tableau: Tableau) -> None:
        self.tableau = tableau
        self.name, self.order = tableau.name, tableau.order
        self.adaptive_order = tableau.order - 1
        has: dict[Quantity, bool] = {"error": bool(tableau.btilde), "stiffness": bool(tableau.stiffness)}
        self.estimates = frozenset(quantity for quantity, there in has.items() if there)

    def constants(self, beta2: float | None) -> Constants:
        own = self.tableau.beta2
        if own is None:
            return Constants(*usual_betas(self.order))
        beta2 = own if beta2 is None else beta2
        return Constants(1 / self.order - 3 * beta2 / 4, beta2)

    def stepper(self, f: RightHandSide, u0: torch.Tensor, problem: Problem) -> Stepper:
        if problem.compiled is not None:
            chain = narrow_chain(f, self.tableau, u0, problem)
            if chain is not None:
                return NarrowStepper(chain, f, self.tableau, u0, problem)
        return ExplicitRKStepper(f, self.tableau, attempts(f, self.tableau, u0, problem))

    def loop(self, f: RightHandSide, problem: Problem, u0: torch.Tensor) -> TensorSolve:
        return TensorSolve(functional(f.f, problem.params), self.tableau)

    def dense_output(self, t: float, u: torch.Tensor, dt: float, record: Record, time: float) -> torch.Tensor:
        return combine(u, self.tableau.interpolant_weights((time - t) / dt), record, dt)

    def replay(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> ExplicitRKReplay:
        return replay(f, self.tableau, problem, trajectory)

    def retake(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> ExplicitRKRetake:
        return ExplicitRKRetake(f, self.tableau, problem, trajectory)

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
        def again() -> torch.Tensor:
            return estimate_of_step(f, self.tableau, quantity, t, u, dt, problem, gradient)

        if quantity == "error" and torch.is_grad_enabled() and problem.params and not u.requires_grad:
            with torch.no_grad():
                computed = narrow_estimate(f, self.tableau, t, u, dt, problem, gradient)
                if computed is None:
                    computed = compiled_estimate(f, self.tableau, t, u, dt, problem, gradient)
            if computed is not None:
                return with_gradients(computed, again, problem.params)
        return again()


class ExplicitRKStepper:
    """Steps one after the other; the first stage is the last one's where the method is FSAL."""

    def __init__(self, f: RightHandSide, tableau: Tableau, attempt: Attempt) -> None:
        self.f, self.tableau, self.evaluate = f, tableau, attempt
        self.uncounted = 0
        self.k1: torch.Tensor | None = None
        self.ks: list[torch.Tensor] = []

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        self.t, self.u, self.dt = t, u, dt
        if self.k1 is None:
            self.k1 = self.f.owned(t, u)
        self.ks = []  # whose memory the stages to come can have
        u_new, self.ks, estimate = self.evaluate(t, u, dt, self.k1, spare)
        self.k1 = self.ks[0]
        return u_new, estimate

    def accept(self) -> None:
        self.k1 = self.ks[self.tableau.stages - 1] if self.tableau.fsal else None
        self.evaluate.advance()

    def reject(self) -> None:
        if not self.tableau.fsal:
            self.k1 = None  # the stack evaluates it anew at every attempt

    def cross(self) -> None:
        if self.k1 is not None:
            self.k1 = None
            self.uncounted += 1  # the stack goes on with the last stage

    def record(self) -> Record:
        self.uncounted += add_interpolant_stages(self.f, self.tableau, self.t, self.u, self.dt, self.ks)
        return self.evaluate.lasting(self.ks)

    def memory(self) -> object:
        return self.evaluate.memory()

    def interpolate(self, time: float) -> torch.Tensor:
        weights = self.tableau.interpolant_weights((time - self.t) / self.dt)
        self.uncounted += add_interpolant_stages(self.f, self.tableau, self.t, self.u, self.dt, self.ks)
        return combine(self.u, weights, self.ks, self.dt)

    def stiffness(self) -> float:
        last = self.tableau.stages - 1
        assert self.tableau.stiffness is not None
        apart = combine(None, self.tableau.stiffness, self.ks, self.dt)
        return float(stiffness(self.ks[last] - self.ks[last - 1], apart))
