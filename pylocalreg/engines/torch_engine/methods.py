"""Every method by the stack's name."""

from pylocalreg.engines.torch_engine.adams import VCAB3, VCABM3
from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.method import Method
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS, Rosenbrock
from pylocalreg.engines.torch_engine.sde import SDE_TABLEAUS, StochasticRK
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS

ODE_METHODS: dict[str, Method] = {
    **{name: ExplicitRK(tableau) for name, tableau in TABLEAUS.items()},
    **{method.name: method for method in (VCAB3, VCABM3)},
    **{name: Rosenbrock(tableau) for name, tableau in ROSENBROCK_TABLEAUS.items()},
}
SDE_METHODS: dict[str, Method] = {name: StochasticRK(tableau) for name, tableau in SDE_TABLEAUS.items()}
METHODS = ODE_METHODS | SDE_METHODS
REGISTERED: set[str] = set()
"""The names of those that the user made."""
