"""The classical Runge-Kutta method, with the cubic Hermite interpolant OrdinaryDiffEqCore falls back to."""

from pylocalreg.engines.torch_engine.tableaus.tableau import Tableau

RK4 = Tableau(
    name="RK4",
    source="W. Kutta, Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, Zeitschrift "
    "fuer Mathematik und Physik 46 (1901)",
    order=4,
    c=(0.5, 0.5, 1.0, 1.0),
    a=(
        (0.5,),
        (0.0, 0.5),
        (0.0, 0.0, 1.0),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    btilde=(),
    interpolant=(
        (1.0, -1.5, 2 / 3),
        (0.0, 1.0, -2 / 3),
        (0.0, 1.0, -2 / 3),
        (0.0, 0.5, -1 / 3),
        (0.0, -1.0, 1.0),
    ),
)
