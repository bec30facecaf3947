"""Every Rosenbrock method by the stack's name."""

from pylocalreg.engines.torch_engine.rosenbrock.rodas5 import RODAS5
from pylocalreg.engines.torch_engine.rosenbrock.rodas5p import RODAS5P
from pylocalreg.engines.torch_engine.rosenbrock.rosenbrock23 import ROSENBROCK23
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau

ROSENBROCK_TABLEAUS: dict[str, RosenbrockTableau] = {
    tableau.name: tableau for tableau in (ROSENBROCK23, RODAS5, RODAS5P)
}
