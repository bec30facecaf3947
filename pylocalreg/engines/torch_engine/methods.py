"""Every method by the stack's name."""

from pylocalreg.engines.torch_engine.adams import VCAB3, VCABM3
from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.method import Method
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS, Rosenbrock
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS

METHODS: dict[str, Method] = {
    **{name: ExplicitRK(tableau) for name, tableau in TABLEAUS.items()},
    **{method.name: method for method in (VCAB3, VCABM3)},
    **{name: Rosenbrock(tableau) for name, tableau in ROSENBROCK_TABLEAUS.items()},
}
