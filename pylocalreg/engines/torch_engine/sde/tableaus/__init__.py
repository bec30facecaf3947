"""Stochastic Runge-Kutta methods, by name: data only."""

from pylocalreg.engines.torch_engine.sde.tableau import StochasticTableau
from pylocalreg.engines.torch_engine.sde.tableaus.euler import EM, EULER_HEUN, LAMBA_EULER_HEUN
from pylocalreg.engines.torch_engine.sde.tableaus.milstein import RK_MIL_COMMUTE
from pylocalreg.engines.torch_engine.sde.tableaus.sri import SOSRI, SOSRI2, SRIW1

SDE_TABLEAUS: dict[str, StochasticTableau] = {
    tableau.name: tableau
    for tableau in (EM, EULER_HEUN, LAMBA_EULER_HEUN, RK_MIL_COMMUTE, SOSRI, SOSRI2, SRIW1)
}

__all__ = ["SDE_TABLEAUS"]
