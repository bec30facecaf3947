"""The derivative-free Milstein method for commutative noise."""

from pylocalreg.engines.torch_engine.sde.tableau import Stage, StochasticTableau

RK_MIL_COMMUTE = StochasticTableau(
    name="RKMilCommute",
    source="P. E. Kloeden, E. Platen, Numerical Solution of Stochastic Differential Equations (1992), 11.1; "
    "the error estimate is that of StochasticDiffEqLowOrder",
    order=1.0,
    interpretation="Ito",
    drift=(Stage(0.0), Stage(1.0, a=(1.0,))),
    diffusion=(Stage(0.0), Stage(0.0, a=(1.0,), b=(1.0,))),
    alpha=(1.0,),
    beta={"W": (1.0, 0.0), "WW": (-1.0, 1.0)},
    error_drift=(-0.5, 0.5),
    error_diffusion={"1/sqdt": (-1.0, 1.0)},
    milstein_error=True,
)
