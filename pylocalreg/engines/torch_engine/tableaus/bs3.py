"""Bogacki-Shampine 3(2), as OrdinaryDiffEqLowOrderRK has it."""

from pylocalreg.engines.torch_engine.tableaus.tableau import Tableau

BS3 = Tableau(
    name="BS3",
    source="P. Bogacki, L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, Applied Mathematics Letters 2 "
    "(1989); the interpolant is the cubic Hermite one, through u, u_new and their derivatives",
    order=3,
    c=(0.5, 0.75, 1.0),
    a=(
        (0.5,),
        (0.0, 0.75),
        (0.2222222222222222, 0.3333333333333333, 0.4444444444444444),
    ),
    btilde=(0.06944444444444445, -0.08333333333333333, -0.1111111111111111, 0.125),
    interpolant=(
        (1.0, -1.3333333333333333, 0.5555555555555556),
        (0.0, 1.0, -0.6666666666666666),
        (0.0, 1.3333333333333333, -0.8888888888888888),
        (0.0, -1.0, 1.0),
    ),
)
