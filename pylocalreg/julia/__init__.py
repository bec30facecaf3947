"""What only the Julia engine can do."""

from pylocalreg.julia.export import to_lux
from pylocalreg.julia.models import JuliaModel, function, lux

__all__ = ["JuliaModel", "function", "lux", "to_lux"]
