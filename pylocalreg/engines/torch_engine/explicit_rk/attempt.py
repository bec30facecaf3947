"""One attempted step of a solve: its stages, its end and its error estimate."""

from typing import Protocol

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.error_norm import ErrorNorm
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau

Attempted = tuple[torch.Tensor, list[torch.Tensor], float]
"""The state at the step's end, the stages, which are good until the next call, and EEst."""


class Attempt(Protocol):
    """Attempts along one solve."""

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        """The step of size ``dt`` from (t, u), where f is ``k1``; ``spare`` may be written to."""

    def advance(self) -> None:
        """The step was accepted."""

    def lasting(self, ks: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The stages of the last attempt, good for ever."""
        return tuple(ks)

    def memory(self) -> object:
        """What the adjoint is to know of the last attempt, or None."""
        return None


class EagerAttempt(Attempt):
    """One operation of PyTorch at a time, the sums in preallocated buffers."""

    def __init__(self, f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem) -> None:
        self.f, self.tableau = f, tableau
        self.stage = torch.empty_like(u)
        if tableau.btilde:
            self.error = torch.empty_like(u)
            self.error_norm = ErrorNorm(u, problem.abstol, problem.reltol)

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        f, tableau = self.f, self.tableau
        ks = [k1]
        for c, a in tableau.inner_rows:
            combine(u, a, ks, dt, out=self.stage)
            ks.append(f.owned(t + c * dt, self.stage))
        u_new = combine(u, tableau.b, ks, dt, out=spare)
        if tableau.fsal:
            ks.append(f.owned(t + dt, u_new))
        if not tableau.btilde:
            return u_new, ks, float("nan")
        combine(None, tableau.btilde, ks, dt, out=self.error)
        return u_new, ks, self.error_norm(self.error, u_new)

    def advance(self) -> None:
        if self.tableau.btilde:
            self.error_norm.advance()
