"""What is added to the loss so that the learnt dynamics are cheap to solve."""

from pylocalreg.regularizers.base import Regularized, Regularizer
from pylocalreg.regularizers.every_step import GlobalRegularizer
from pylocalreg.regularizers.local import LocalRegularizer, Sampling, Step
from pylocalreg.regularizers.rnode import RNODE
from pylocalreg.regularizers.sampling import Importance
from pylocalreg.regularizers.steer import STEER
from pylocalreg.regularizers.taynode import TayNODE

__all__ = [
    "RNODE",
    "STEER",
    "GlobalRegularizer",
    "Importance",
    "LocalRegularizer",
    "Regularized",
    "Regularizer",
    "Sampling",
    "Step",
    "TayNODE",
]
