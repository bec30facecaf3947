"""Steps of a chain that is narrower than its state, taken among its hidden values."""

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.error_norm import ErrorNorm, stiffness
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain, at, in_time
from pylocalreg.engines.torch_engine.explicit_rk.step import add_interpolant_stages, combine
from pylocalreg.engines.torch_engine.method import Record
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class NarrowStepper:
    """The steps of `ExplicitRKStepper` but for rounding. What f gives is computed where it is asked for."""

    def __init__(
        self, chain: NarrowChain, f: RightHandSide, tableau: Tableau, u0: torch.Tensor, problem: Problem
    ) -> None:
        self.chain, self.f, self.tableau = chain, f, tableau
        self.uncounted = 0
        self.error_norm = ErrorNorm(chain.rows(u0), problem.abstol, problem.reltol)
        self.of_u = chain.rows(u0) @ chain.W_in
        self.of_new = self.of_u
        self.first: HiddenCall | None = None
        self.calls: list[HiddenCall] = []
        self.ks: list[torch.Tensor] = []

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        chain, tableau = self.chain, self.tableau
        self.t, self.u, self.dt, self.ks = t, u, dt, []
        if self.first is None:
            self.f.nfe += 1
            self.first = chain.call(self.of_u + at(chain.b_in, t), t)
        self.f.nfe += tableau.stages - 1
        self.calls = chain.calls(self.first, self.of_u, tableau, t, dt, tableau.stages - tableau.fsal)
        rows = self._end(u, spare)
        self.of_new = rows @ chain.W_in
        if tableau.fsal:
            self.calls.append(chain.call(self.of_new + at(chain.b_in, t + dt), t + dt))
        if not tableau.btilde:
            return rows.view_as(u), float("nan")
        return rows.view_as(u), self.error_norm(chain.sum_of(tableau.btilde, self.calls, dt), rows)

    def accept(self) -> None:
        self.first = self.calls[self.tableau.stages - 1] if self.tableau.fsal else None
        self.of_u = self.of_new
        if self.tableau.btilde:
            self.error_norm.advance()

    def reject(self) -> None:
        if not self.tableau.fsal:
            self.f.nfe += 1  # the stack evaluates the first stage anew at every attempt

    def cross(self) -> None:
        if self.first is not None:
            self.first = None
            self.uncounted += 1  # the stack goes on with the last stage

    def record(self) -> Record:
        self._make_stages()
        return tuple(self.ks)

    def memory(self) -> object:
        return None

    def interpolate(self, time: float) -> torch.Tensor:
        self._make_stages()
        weights = self.tableau.interpolant_weights((time - self.t) / self.dt)
        return combine(self.u, weights, self.ks, self.dt)

    def stiffness(self) -> float:
        last = self.tableau.stages - 1
        assert self.tableau.stiffness is not None
        apart = self.chain.sum_of(self.tableau.stiffness, self.calls, self.dt)
        before, after = (self.chain.k(call) for call in self.calls[last - 1 : last + 1])
        return float(stiffness(after - before, apart))

    def _end(self, u: torch.Tensor, spare: torch.Tensor | None) -> torch.Tensor:
        """The state after the step, as rows."""
        chain, weights, calls = self.chain, self.tableau.b, self.calls
        h = combine(None, weights, [call.h for call in calls], self.dt)
        out = None if spare is None else chain.rows(spare)
        end: torch.Tensor = torch.addmm(chain.rows(u), h, chain.W_out, out=out)
        return end.add_(combine(None, in_time(weights, calls), chain.b_out, self.dt))

    def _make_stages(self) -> None:
        """The stages, those of the interpolant too."""
        if not self.ks:
            self.ks = [self.chain.k(call).view_as(self.u) for call in self.calls]
            self.uncounted += add_interpolant_stages(self.f, self.tableau, self.t, self.u, self.dt, self.ks)
