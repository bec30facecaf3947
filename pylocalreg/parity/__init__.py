"""The same case on every engine, and the differences side by side."""

from pylocalreg.parity.cases import Case, golden_cases, own_cases
from pylocalreg.parity.compare import Comparison, compare
from pylocalreg.parity.measure import Measured, measure

__all__ = ["Case", "Comparison", "Measured", "compare", "golden_cases", "measure", "own_cases"]
