"""Explicit Runge-Kutta methods as data: one file of numbers each."""

from pylocalreg.engines.torch_engine.tableaus.tableau import Tableau
from pylocalreg.engines.torch_engine.tableaus.tsit5 import TSIT5

TABLEAUS: dict[str, Tableau] = {tableau.name: tableau for tableau in (TSIT5,)}

__all__ = ["TABLEAUS", "Tableau"]
