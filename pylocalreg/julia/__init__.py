"""What only the Julia engine can do. Importing this does not start Julia."""

from pylocalreg.julia.adjoints import adjoint
from pylocalreg.julia.algorithms import Solver, algorithm, solvers
from pylocalreg.julia.export import to_lux
from pylocalreg.julia.models import JuliaModel, function, lux

__all__ = ["JuliaModel", "Solver", "adjoint", "algorithm", "function", "lux", "solvers", "to_lux"]
