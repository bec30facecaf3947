"""Neural differential equations that learn to be cheap to solve."""

from pylocalreg import errors, julia, plot, schedules
from pylocalreg.brownian import BrownianPath
from pylocalreg.controllers import Controller, PIDController
from pylocalreg.dynamics import BatchNorm, Chain, Conv, Dense, GroupNorm, TimeDependent
from pylocalreg.engines.base import Adjoint
from pylocalreg.engines.torch_engine.tableaus import Tableau
from pylocalreg.errors import LocalRegError
from pylocalreg.events import Event
from pylocalreg.local_error import local_error
from pylocalreg.monitor import Monitor
from pylocalreg.neural_ode import NeuralODE, compile
from pylocalreg.neural_sde import NeuralSDE
from pylocalreg.registration import register
from pylocalreg.regularizers import (
    RNODE,
    STEER,
    GlobalRegularizer,
    LocalRegularizer,
    Regularizer,
    Sampling,
    TayNODE,
)
from pylocalreg.solution import Occurrence, Solution, Stats, Steps
from pylocalreg.step_record import StepRecord

__version__ = "0.1.0"

__all__ = [
    "RNODE",
    "STEER",
    "Adjoint",
    "BatchNorm",
    "BrownianPath",
    "Chain",
    "Controller",
    "Conv",
    "Dense",
    "Event",
    "GlobalRegularizer",
    "GroupNorm",
    "LocalRegError",
    "LocalRegularizer",
    "Monitor",
    "NeuralODE",
    "NeuralSDE",
    "Occurrence",
    "PIDController",
    "Regularizer",
    "Sampling",
    "Solution",
    "Stats",
    "StepRecord",
    "Steps",
    "Tableau",
    "TayNODE",
    "TimeDependent",
    "compile",
    "errors",
    "julia",
    "local_error",
    "plot",
    "register",
    "schedules",
]
