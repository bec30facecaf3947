"""What of the SciML stack in Julia can be asked for by name. Importing this does not start Julia."""

from pylocalreg.julia.adjoints import adjoint
from pylocalreg.julia.algorithms import Solver, algorithm, solvers

__all__ = ["Solver", "adjoint", "algorithm", "solvers"]
