"""The differences between two measurements of a case."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.parity.cases import Case
from pylocalreg.parity.measure import Measured, golden, measure

FIELDS = ("t", "EEst", "u", "R", "R_by_p", "by_u0", "by_p")
"""What differences are given of, each the largest one over the largest magnitude of the reference."""

RESOLVED = 0.1
"""A bound above this tells nothing of two numbers."""

JUDGED = ("u", "R", "R_by_p", "by_u0", "by_p")
"""Those that a verdict is given on: what a user gets of a solve."""


@dataclass(frozen=True)
class Comparison:
    """One case on one engine against a reference; a difference is None where a side has no number, and
    infinite where the sides took different numbers of steps.
    """

    case: Case
    reference: Measured
    measured: Measured
    differences: dict[str, float | None]

    @property
    def same_steps(self) -> bool:
        one, other = self.reference, self.measured
        return (one.naccept, one.nreject, one.nf) == (other.naccept, other.nreject, other.nf)

    def agrees(self, field: str) -> bool | None:
        """Whether a difference is within its bound; None where there is none, or rounding alone decides
        it.
        """
        difference, bound = self.differences[field], self.bound(field)
        return None if difference is None or bound > RESOLVED else difference <= bound

    @property
    def same(self) -> bool:
        return self.same_steps and not self.apart

    @property
    def apart(self) -> list[str]:
        """The fields that do not agree."""
        return [field for field in JUDGED if self.agrees(field) is False]

    def bound(self, field: str) -> float:
        """How far two right answers may lie apart, relative.

        A state at the end, a tenth of the tolerance: the steps may differ where an estimate is rounding. A
        gradient by a continuous adjoint, ten times: it is solved to the tolerance again, and the loss sums
        over the state. R and its gradient: EEst is a difference of stages over the tolerance, which hold it
        to the dtype's epsilon / tolerance.
        """
        epsilon, tol = torch.finfo(self.case.u0.dtype).eps, self.case.tol
        if field in ("R", "R_by_p"):
            R, dt = self.reference.R, self.reference.dt_at_tau
            return 100 * epsilon / tol * abs(dt) / float(R) if R and dt else float("inf")
        return (0.1 if field == "u" else 10.0) * tol + 1000 * epsilon


def compare(case: Case, engines: Sequence[str]) -> list[Comparison]:
    """Each engine against the golden numbers where the case has them, else against the first engine."""
    others = list(engines)
    reference = golden(case) if case.golden is not None else measure(case, others.pop(0))
    runs = [measure(case, engine, reference.dt_at_tau) for engine in others]
    return [
        Comparison(case, reference, run, {field: _difference(reference, run, field) for field in FIELDS})
        for run in runs
    ]


def _difference(reference: Measured, run: Measured, field: str) -> float | None:
    one, other = getattr(reference, field), getattr(run, field)
    if one is None or other is None:
        return None
    x, y = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
    if x.shape != y.shape:
        return float("inf")
    scale = float(x.abs().max()) if x.numel() else 0.0
    return float((x - y).abs().max()) / scale if scale else float((x - y).abs().sum())
