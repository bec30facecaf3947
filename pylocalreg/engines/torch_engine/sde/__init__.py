"""Methods for stochastic differential equations: a tableau's numbers made into steps."""

from pylocalreg.engines.torch_engine.sde.stochastic_rk import StochasticRK
from pylocalreg.engines.torch_engine.sde.tableaus import SDE_TABLEAUS

__all__ = ["SDE_TABLEAUS", "StochasticRK"]
