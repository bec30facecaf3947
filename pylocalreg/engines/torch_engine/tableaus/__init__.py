"""Explicit Runge-Kutta methods as data: one file of numbers each."""

from pylocalreg.engines.torch_engine.tableaus.bs3 import BS3
from pylocalreg.engines.torch_engine.tableaus.dp5 import DP5
from pylocalreg.engines.torch_engine.tableaus.euler import EULER
from pylocalreg.engines.torch_engine.tableaus.rk4 import RK4
from pylocalreg.engines.torch_engine.tableaus.tableau import Tableau
from pylocalreg.engines.torch_engine.tableaus.tsit5 import TSIT5
from pylocalreg.engines.torch_engine.tableaus.vern7 import VERN7

TABLEAUS: dict[str, Tableau] = {tableau.name: tableau for tableau in (BS3, DP5, EULER, RK4, TSIT5, VERN7)}

__all__ = ["TABLEAUS", "Tableau"]
