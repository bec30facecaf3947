"""Adjoints: how cotangents of the solution become gradients of u0 and the parameters."""

from pylocalreg.engines.torch_engine.adjoints.discrete import discrete
from pylocalreg.engines.torch_engine.adjoints.interpolating import interpolating

ADJOINTS = {"discrete": discrete, "interpolating": interpolating}

__all__ = ["ADJOINTS"]
