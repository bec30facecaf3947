"""The stack's proportional-integral step size controller (OrdinaryDiffEqCore, PIController).

All arithmetic is in the state's own precision, as in Julia: ``T`` is numpy's float32 or float64.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pylocalreg.engines.torch_engine.fastpower import fastpower

Scalar = np.floating[Any]

QMAX_FIRST_STEP = 10_000  # the automatic first step is only a guess: let it grow at will once
OLD_ERROR_FLOOR = 1e-4


@dataclass(frozen=True)
class Constants:
    """A method's own constants, by the stack's names."""

    beta1: float
    beta2: float
    gamma: float = 9 / 10
    qmin: float = 1 / 5
    qmax: float = 10
    qsteady_min: float = 1.0
    qsteady_max: float = 1.0


def usual_betas(order: float) -> tuple[float, float]:
    """The exponents of a method that has none of its own (beta1_default, beta2_default)."""
    return 7 / (10 * order), 2 / (5 * order)


class PIController:
    """dt_next = dt / q with q = EEst^beta1 / EEst_old^beta2 / gamma, clipped to [1 / qmax, 1 / qmin]; dt
    itself where q is in [qsteady_min, qsteady_max].
    """

    def __init__(self, T: type[Scalar], constants: Constants) -> None:
        self.beta1, self.beta2 = T(constants.beta1), T(constants.beta2)
        self.gamma = T(constants.gamma)
        self.smallest_q_first_step = T(1) / T(QMAX_FIRST_STEP)
        self.smallest_q = T(1) / T(constants.qmax)
        self.largest_q = T(1) / T(constants.qmin)
        self.floor = T(OLD_ERROR_FLOOR)
        self.old_error = T(OLD_ERROR_FLOOR)
        self.qsteady_min, self.qsteady_max = T(constants.qsteady_min), T(constants.qsteady_max)
        self.naccept = 0
        self.T = T

    def accept(self, dt: Scalar, error: Scalar) -> Scalar:
        """The step proposed after one that was accepted with this error estimate."""
        smallest_q = self.smallest_q if self.naccept else self.smallest_q_first_step
        if error == 0:
            q = smallest_q
        else:
            q = self.T(fastpower(error, self.beta1)) / self.T(fastpower(self.old_error, self.beta2))
            q = min(max(q / self.gamma, smallest_q), self.largest_q)
        self.naccept += 1
        self.old_error = max(error, self.floor)
        return dt if self.qsteady_min <= q <= self.qsteady_max else dt / q

    def reject(self, dt: Scalar, error: Scalar) -> Scalar:
        """The step to try after one that was rejected; a non-finite estimate shrinks it the most."""
        if not math.isfinite(error):
            return dt / self.largest_q
        return dt / min(self.largest_q, self.T(fastpower(error, self.beta1)) / self.gamma)
