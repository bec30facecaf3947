"""Rosenbrock23, the method of Matlab's ode23s, as OrdinaryDiffEqRosenbrock has it.

There the stages are k_1 = z_1 / (gamma dt), k_2 = (z_1 + z_2) / (gamma dt) and a k_3 that has f of the first
two stages on its right-hand side. With these eliminated by the first two stages' own equations, k_3 =
(z_3 + (6 + sqrt 2) z_2 + 2 z_1) / (gamma dt): the same method in the form of the others.

The stack weights df/dt in k_3 by dt, where ode23s has gamma dt; only the error estimate knows k_3.
"""

import math

from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau

_gamma = 1 / (2 + math.sqrt(2))
_e32 = 6 + math.sqrt(2)

ROSENBROCK23 = RosenbrockTableau(
    name="Rosenbrock23",
    source="L. F. Shampine, Implementation of Rosenbrock methods, ACM Transactions on Mathematical Software "
    "8 (1982); L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM Journal on Scientific Computing 18 "
    "(1997)",
    order=2,
    adaptive_order=3,
    gamma=_gamma,
    a=((0.5 / _gamma,), (1 / _gamma, 1 / _gamma)),
    C=((-1 / _gamma,), (-2 / _gamma, -_e32 / _gamma)),
    c=(0.0, 0.5, 1.0),
    d=(_gamma, 0.0, 1 - 2 * _gamma),
    b=(1 / _gamma, 1 / _gamma),
    btilde=(1 / (6 * _gamma), (_e32 - 2) / (6 * _gamma), 1 / (6 * _gamma)),
    H=((0.0, -1 / (_gamma * (1 - 2 * _gamma))),),
    fsal=True,
)
