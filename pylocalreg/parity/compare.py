"""The differences between two measurements of a case."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.parity.cases import Case
from pylocalreg.parity.measure import Measured, golden, measure

FIELDS = ("t", "EEst", "u", "R", "R_by_p", "by_u0", "by_p")
"""What differences are given of, each the largest one over the largest magnitude of the reference."""


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


def compare(case: Case, engines: Sequence[str]) -> list[Comparison]:
    """Each engine against the golden numbers where the case has them, else against the first engine."""
    runs = [measure(case, engine) for engine in engines]
    if case.golden is not None:
        reference = golden(case)
    else:
        reference, *runs = runs
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
