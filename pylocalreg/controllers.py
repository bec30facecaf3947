"""Which step size controller a solve takes: one of the stack's, by its name, or the user's own."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from pylocalreg.checks import check_number
from pylocalreg.errors import OptionError


class Controller(Protocol):
    """The two calls that a controller has. ``EEst`` is the step's error over the tolerances: NaN or infinite
    where the step met such values.
    """

    def accept(self, EEst: float) -> bool:
        """Whether the step just tried is accepted."""

    def propose(self, dt: float, EEst: float, accepted: bool) -> float:
        """The step to try next, after one of size ``dt``, of whose sign it must be."""


NewController = Callable[[float], Controller]
"""Gives each solve a controller of its own: called with k, the power of dt that EEst goes with."""


def smooth(x: float) -> float:
    """1 + atan(x - 1), from 0.21 at 0 to 2.57 (Söderlind, Wang 2006, section 6)."""
    return 1 + math.atan(x - 1)


@dataclass(frozen=True)
class PIDController:
    """The stack's PIDController: dt_next = dt limiter(e_n^(beta1/k) e_(n-1)^(beta2/k) e_(n-2)^(beta3/k)) with
    e = 1/EEst, and a step is accepted where that factor is at least ``accept_safety`` (Söderlind 2003;
    Ranocha, Dalcin, Parsani, Ketcheson 2021).

    By default PI34. Others of the literature: (0.6, -0.2, 0) PI42, (2/3, -1/3, 0) PI33, (1/6, 1/6, 0) H211PI,
    (1/18, 1/9, 1/18) H312PID. The rule of acceptance passes EEst up to about 0.81^(-k/beta1), 5 for PI34 and
    a method of order 5. Small beta1 would pass any: the last two want an ``accept_safety`` nearer to 1, and
    what would accept EEst = 20 is refused. That is what the stack's own constructor gives where it is given
    no coefficients: a method's exponents, divided by the order twice.

    Raises:
        OptionError: a coefficient that is not finite, beta1 + beta2 + beta3 that is not above 0,
            accept_safety that is not in (0, 1]; at the solve, coefficients that accept EEst = 20.
    """

    beta1: float = 0.7
    beta2: float = -0.4
    beta3: float = 0.0
    accept_safety: float = 0.81
    limiter: Callable[[float], float] = smooth

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "beta3", "accept_safety"):
            if not math.isfinite(check_number(name, getattr(self, name))):
                raise OptionError(f"PIDController: {name} = {getattr(self, name)} is not finite")
        total = self.beta1 + self.beta2 + self.beta3
        if not total > 0:
            raise OptionError(
                f"PIDController: beta1 + beta2 + beta3 = {total:g} must be above 0, or no error shrinks steps"
            )
        if not 0 < self.accept_safety <= 1:
            raise OptionError(f"PIDController: accept_safety = {self.accept_safety:g}: give 0 < it <= 1")
        if not callable(self.limiter):
            raise OptionError(f"PIDController: limiter = {self.limiter!r} is not a function")


CONTROLLER_CONSTANTS = ("gamma", "qmin", "qmax", "beta1", "beta2", "qsteady_min", "qsteady_max")
ControllerName = Literal["I", "PI", "PID"]
ControllerChoice = ControllerName | PIDController | NewController


def check_controller(controller: ControllerChoice, constants: dict[str, float]) -> None:
    """Raise `OptionError` for what is no controller, and for constants that it would ignore."""
    unused, instead = _unused(controller)
    given = [name for name in constants if name in unused]
    if given:
        raise OptionError(f"{', '.join(given)} with controller={controller!r}, which takes none: {instead}")


def _unused(controller: ControllerChoice) -> tuple[tuple[str, ...], str]:
    """The constants that a controller has no use for, and what there is in their place."""
    if controller == "PI":
        return (), ""
    if controller == "I":
        return ("beta1", "beta2"), "its one exponent is 1 / k"
    if controller == "PID" or isinstance(controller, PIDController):
        return (
            ("gamma", "qmin", "qmax", "beta1", "beta2"),
            "give plr.PIDController(beta1, beta2, beta3, accept_safety, limiter)",
        )
    if isinstance(controller, str) or not callable(controller):
        raise OptionError(
            f"controller={controller!r} does not exist: choose 'PI', 'I' or 'PID', or give "
            "plr.PIDController(...), or a class or function that makes one of k, with accept(EEst) and "
            "propose(dt, EEst, accepted)"
        )
    if inspect.isclass(controller):
        lacks = [name for name in ("accept", "propose") if not callable(getattr(controller, name, None))]
        if lacks:
            raise OptionError(f"controller={controller.__name__}: it has no {' and no '.join(lacks)}")
    return CONTROLLER_CONSTANTS, "one of your own has its own"
