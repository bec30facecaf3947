"""Every method by the stack's name."""

from pylocalreg.engines.torch_engine.explicit_rk import ExplicitRK
from pylocalreg.engines.torch_engine.method import Method
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS

METHODS: dict[str, Method] = {name: ExplicitRK(tableau) for name, tableau in TABLEAUS.items()}
