"""Euler-Maruyama, and Heun's method in Stratonovich's sense with fixed and with adaptive steps."""

from pylocalreg.engines.torch_engine.sde.tableau import Stage, StochasticTableau

EM = StochasticTableau(
    name="EM",
    source="G. Maruyama, Continuous Markov processes and stochastic equations (1955); as the stack's EM by "
    "default, the diffusion is evaluated after the drift's step (split)",
    order=0.5,
    interpretation="Ito",
    drift=(Stage(0.0),),
    diffusion=(Stage(0.0, a=(1.0,)),),
    alpha=(1.0,),
    beta={"W": (1.0,)},
)

_PREDICTED = Stage(1.0, a=(1.0,), b=(1.0,), integral="W")

EULER_HEUN = StochasticTableau(
    name="EulerHeun",
    source="P. E. Kloeden, E. Platen, Numerical Solution of Stochastic Differential Equations (1992)",
    order=0.5,
    interpretation="Stratonovich",
    drift=(Stage(0.0), _PREDICTED),
    diffusion=(Stage(0.0), _PREDICTED),
    alpha=(0.5, 0.5),
    beta={"W": (0.5, 0.5)},
)

LAMBA_EULER_HEUN = StochasticTableau(
    name="LambaEulerHeun",
    source="H. Lamba, An adaptive timestepping algorithm for stochastic differential equations, Journal of "
    "Computational and Applied Mathematics 161 (2003), with Heun's steps as in StochasticDiffEqLowOrder",
    order=0.5,
    interpretation="Stratonovich",
    drift=(Stage(0.0), _PREDICTED, Stage(1.0, a=(1.0,))),
    diffusion=(Stage(0.0), _PREDICTED, Stage(0.0, b=(1.0,))),
    alpha=(0.5, 0.5),
    beta={"W": (0.5, 0.5)},
    error_drift=(-0.5, 0.0, 0.5),
    error_diffusion={"WW_strat": (-1.0, 0.0, 1.0)},
)
