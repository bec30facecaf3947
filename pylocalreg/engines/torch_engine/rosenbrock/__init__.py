"""Rosenbrock-Wanner methods for stiff problems: a tableau's numbers and the Jacobian made into steps."""

from pylocalreg.engines.torch_engine.rosenbrock.rosenbrock import Rosenbrock
from pylocalreg.engines.torch_engine.rosenbrock.tableaus import ROSENBROCK_TABLEAUS

__all__ = ["ROSENBROCK_TABLEAUS", "Rosenbrock"]
