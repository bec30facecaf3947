"""The step size controllers of OrdinaryDiffEqCore, and what a solve makes of the user's choice.

All arithmetic is in the state's own precision, as in Julia: ``T`` is numpy's float32 or float64.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pylocalreg.controllers import Controller, ControllerChoice, PIDController
from pylocalreg.engines.torch_engine.fastpower import fastpower
from pylocalreg.errors import OptionError

Scalar = np.floating[Any]

QMAX_FIRST_STEP = 10_000  # the automatic first step is only a guess: let it grow at will once
OLD_ERROR_FLOOR = 1e-4
LARGE = 20
"""An EEst that no controller of the stack's kind is to accept."""


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


class Control(Protocol):
    """As `Controller`, in the solve's own precision."""

    def accept(self, error: Scalar) -> bool:
        """Whether the step just tried is accepted."""

    def propose(self, dt: Scalar, error: Scalar, accepted: bool) -> Scalar:
        """The step to try next; a non-finite estimate shrinks it the most."""


class Clipped:
    """What the I and the PI controller share: dt_next = dt / q with q in [1 / qmax, 1 / qmin], dt itself
    where q is in [qsteady_min, qsteady_max], and a step is accepted where EEst <= 1.
    """

    def __init__(self, T: type[Scalar], constants: Constants) -> None:
        self.T, self.gamma = T, T(constants.gamma)
        self.smallest_q_first_step = T(1) / T(QMAX_FIRST_STEP)
        self.smallest_q = T(1) / T(constants.qmax)
        self.largest_q = T(1) / T(constants.qmin)
        self.qsteady_min, self.qsteady_max = T(constants.qsteady_min), T(constants.qsteady_max)
        self.naccept = 0

    def accept(self, error: Scalar) -> bool:
        return bool(error <= 1)

    def with_betas(self, beta1: Scalar, beta2: Scalar) -> tuple[float, ...]:
        """What makes it, in the order of `TensorPI`."""
        of_q = self.smallest_q_first_step, self.smallest_q, self.largest_q, self.qsteady_min, self.qsteady_max
        return tuple(map(float, (self.gamma, *of_q, beta1, beta2)))

    def clipped(self, q: Scalar) -> Scalar:
        smallest_q = self.smallest_q if self.naccept else self.smallest_q_first_step
        return min(max(q, smallest_q), self.largest_q)

    def kept(self, q: Scalar) -> bool:
        """Whether the size stays, after a step that was accepted."""
        self.naccept += 1
        return bool(self.qsteady_min <= q <= self.qsteady_max)


class PIControl(Clipped):
    """q = EEst^beta1 / EEst_old^beta2 / gamma; after a rejection EEst^beta1 / gamma (PIController)."""

    def __init__(self, T: type[Scalar], constants: Constants) -> None:
        super().__init__(T, constants)
        self.beta1, self.beta2 = T(constants.beta1), T(constants.beta2)
        self.floor = T(OLD_ERROR_FLOOR)
        self.old_error = T(OLD_ERROR_FLOOR)

    def numbers(self) -> tuple[float, ...]:
        """As `with_betas`."""
        return self.with_betas(self.beta1, self.beta2)

    def propose(self, dt: Scalar, error: Scalar, accepted: bool) -> Scalar:
        if not accepted:
            if not math.isfinite(error):
                return dt / self.largest_q
            return dt / min(self.largest_q, self.T(fastpower(error, self.beta1)) / self.gamma)
        q = self.T(0)
        if error != 0:
            q = self.T(fastpower(error, self.beta1)) / self.T(fastpower(self.old_error, self.beta2))
            q = q / self.gamma
        q = self.clipped(q)
        self.old_error = max(error, self.floor)
        return dt if self.kept(q) else dt / q


class IControl(Clipped):
    """q = EEst^(1 / k) / gamma (IController)."""

    def __init__(self, T: type[Scalar], constants: Constants, k: float) -> None:
        super().__init__(T, constants)
        self.exponent = T(1) / T(k)

    def numbers(self) -> tuple[float, ...]:
        """As `with_betas`: a PI controller whose memory has no weight."""
        return self.with_betas(self.exponent, self.T(0))

    def propose(self, dt: Scalar, error: Scalar, accepted: bool) -> Scalar:
        if not math.isfinite(error):
            return dt / self.largest_q
        q = self.clipped(self.T(fastpower(error, self.exponent)) / self.gamma)
        return dt if accepted and self.kept(q) else dt / q


class PIDControl:
    """See `PIDController`. The powers are exact here, and in double precision.

    Raises:
        OptionError: coefficients with which steps far outside the tolerances would be accepted.
    """

    def __init__(self, T: type[Scalar], given: PIDController, constants: Constants, k: float) -> None:
        self.T, self.given = T, given
        self.exponents = given.beta1 / k, given.beta2 / k, given.beta3 / k
        self.qsteady_min, self.qsteady_max = constants.qsteady_min, constants.qsteady_max
        self.smallest = float(np.finfo(T).eps)
        self.inverses = [1.0, 1.0, 1.0]  # of the estimates of this step and the accepted ones before
        self.factor = 1.0
        if given.limiter(LARGE ** -self.exponents[0]) >= given.accept_safety:
            raise OptionError(
                f"{given}: with the method's k = {k:g} a step with EEst = {LARGE:g} would be accepted, "
                f"{LARGE:g} times the tolerance: raise beta1, or accept_safety towards 1"
            )

    def numbers(self) -> tuple[float, ...]:
        """What makes it beside the limiter, in the order of `TensorPID`."""
        safe = self.given.accept_safety, self.qsteady_min, self.qsteady_max
        return (*self.exponents, *safe, self.smallest)

    def accept(self, error: Scalar) -> bool:
        self.inverses[0] = 1 / max(float(error), self.smallest) if math.isfinite(error) else 0.0
        power = math.prod(x**e for x, e in zip(self.inverses, self.exponents, strict=True) if e)
        self.factor = self.given.limiter(power)
        return self.factor >= self.given.accept_safety and math.isfinite(error)

    def propose(self, dt: Scalar, error: Scalar, accepted: bool) -> Scalar:
        if accepted:
            self.inverses[1:] = self.inverses[:2]
            if self.qsteady_min <= 1 / self.factor <= self.qsteady_max:
                return dt
        return self.T(float(dt) * self.factor)


class OwnControl:
    """A controller of the user's, held to what every controller keeps."""

    def __init__(self, T: type[Scalar], own: Controller) -> None:
        self.T, self.own, self.name = T, own, type(own).__name__

    def accept(self, error: Scalar) -> bool:
        accepted = self.own.accept(float(error))
        if accepted and not math.isfinite(error):
            raise OptionError(f"{self.name}.accept accepted a step with EEst = {float(error)}")
        return bool(accepted)

    def propose(self, dt: Scalar, error: Scalar, accepted: bool) -> Scalar:
        proposed = self.own.propose(float(dt), float(error), accepted)
        if not (math.isfinite(proposed) and proposed * float(dt) > 0):
            raise OptionError(
                f"{self.name}.propose gave {proposed} after dt = {float(dt):g} with EEst = {float(error):g}: "
                "give a finite step of the same sign"
            )
        if not accepted and abs(proposed) >= abs(dt):
            raise OptionError(
                f"{self.name}.propose gave {proposed:g} after dt = {float(dt):g} was rejected with EEst = "
                f"{float(error):g}: give a smaller one, or the same step is tried for ever"
            )
        return self.T(proposed)


def control(
    T: type[Scalar],
    choice: ControllerChoice,
    constants: Constants,
    given: dict[str, float],
    order: float,
    adaptive_order: float,
) -> Control:
    """A solve's controller; ``constants`` are the method's, ``given`` the user's in their place."""
    constants = dataclasses.replace(constants, **given) if given else constants
    if choice == "PI":
        return PIControl(T, constants)
    if choice == "I":
        return IControl(T, constants, adaptive_order + 1)
    if choice == "PID":
        choice = PIDController()
    if isinstance(choice, PIDController):
        return PIDControl(T, choice, constants, min(order, adaptive_order) + 1)
    assert not isinstance(choice, str)
    return OwnControl(T, choice(adaptive_order + 1))
