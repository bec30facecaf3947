"""Euler's method, with the cubic Hermite interpolant that OrdinaryDiffEqCore falls back to."""

from pylocalreg.engines.torch_engine.tableaus.tableau import Tableau

EULER = Tableau(
    name="Euler",
    source="L. Euler, Institutionum calculi integralis I (1768), section 650",
    order=1,
    c=(1.0,),
    a=((1.0,),),
    btilde=(),
    interpolant=(
        (1.0, 1.0, -1.0),
        (0.0, -1.0, 1.0),
    ),
)
