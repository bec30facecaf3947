"""What the user's dynamics do beside computing: tensors they reach, hold and write to, numbers they draw."""

from pylocalreg.observed.as_solved import AsSolved
from pylocalreg.observed.observed import Observed, draws_numbers, observe, observed_in

__all__ = ["AsSolved", "Observed", "draws_numbers", "observe", "observed_in"]
