"""What a stochastic Runge-Kutta method is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Literal

Row = tuple[float, ...]

Integral = Literal["sqdt", "1/sqdt", "W", "WW", "WW_strat", "WZ", "WWW"]
"""The numbers of a step of size h that weigh the diffusion's stages, in Rößler's normalization.

``"sqdt"``: sqrt(h), and ``"1/sqdt"``; ``"W"``: the increment dW; ``"WW"``: I(1,1) / sqrt(h) =
(dW^2 - h) / (2 sqrt(h)), and ``"WW_strat"`` that integral in Stratonovich's sense, dW^2 / (2 sqrt(h));
``"WZ"``: I(1,0) / h = (dW + dZ / sqrt(3)) / 2; ``"WWW"``: I(1,1,1) / h = (dW^3 - 3 h dW) / (6 h).
"""


@dataclass(frozen=True)
class Stage:
    """An evaluation at t + c h and u + h sum_j a_j k_j + integral * sum_j b_j g_j.

    k_j are the drift's stages, g_j the diffusion's. Stage i may use those before it, and a diffusion's stage
    the drift's of its own number.
    """

    c: float
    a: Row = ()
    b: Row = ()
    integral: Integral = "sqdt"


@dataclass(frozen=True)
class StochasticTableau:
    """A method for du = f(t, u) dt + g(t, u) dW with one Wiener process an element, or one for all.

    The new state is u + h sum_i alpha_i k_i + sum over the integrals I of I sum_i beta_I_i g_i.

    Attributes:
        order: the strong order, as the controller and the automatic first step take it.
        interpretation: of the equation's stochastic integral.
        drift, diffusion: the stages.
        alpha, beta: weights of the new state.
        error_drift: weights of E1 = h sum_i k_i; none where the method has no error estimate.
        error_diffusion: weights of E2, by integral.
        delta: the error estimate is that of delta E1 + E2.
        milstein_error: it is delta rms(E1) + rms(dW)^3 rms(E2)^2 / 6 in the place of each element's error.
        stiffness: whether the stack detects stiffness from the last two drift stages.
    """

    name: str
    source: str
    order: float
    interpretation: Literal["Ito", "Stratonovich"]
    drift: tuple[Stage, ...]
    diffusion: tuple[Stage, ...]
    alpha: Row
    beta: Mapping[Integral, Row]
    error_drift: Row = ()
    error_diffusion: Mapping[Integral, Row] = field(default_factory=dict)
    delta: float = 1.0
    milstein_error: bool = False
    stiffness: bool = False

    @cached_property
    def calls(self) -> tuple[tuple[bool, int, Stage], ...]:
        """Every evaluation in its order: whether it is the drift's, its number, and where."""
        calls: list[tuple[bool, int, Stage]] = []
        for i, (of_drift, of_diffusion) in enumerate(zip_longest(self.drift, self.diffusion)):
            calls += [(True, i, of_drift)] if of_drift else []
            calls += [(False, i, of_diffusion)] if of_diffusion else []
        return tuple(calls)
