"""What an explicit Runge-Kutta method is made of."""

from dataclasses import dataclass
from functools import cached_property

Row = tuple[float, tuple[float, ...]]
"""Node and weights of one stage: k = f(t + c dt, u + dt sum_i a_i k_i)."""


@dataclass(frozen=True)
class Tableau:
    """An embedded explicit Runge-Kutta pair with a dense output.

    Attributes:
        order: order of the solution that is carried on.
        c: nodes of the stages 2, 3, ...; stage 1 is at the step's start.
        a: weights of the stages 2, 3, ... Rows beyond the step's own stages (those that ``btilde`` has)
            belong to the interpolant and are evaluated only where dense output is asked for.
        btilde: weights of the error estimate, one for each of the step's own stages. Empty for a method
            without one: all its stages are the step's own, and its steps are fixed.
        interpolant: for each stage the coefficients of theta, theta^2, ... of its dense output weight.
        solution: weights of the new state. None where the step's last stage is evaluated at the new state
            and is the first of the next step (FSAL): they are that stage's row of ``a``.
        beta2: exponent of the step size controller, where the stack does not use the usual one. beta1 is then
            Hairer's 1 / order - 3 beta2 / 4.
    """

    name: str
    source: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    btilde: tuple[float, ...] = ()
    interpolant: tuple[tuple[float, ...], ...] = ()
    solution: tuple[float, ...] | None = None
    beta2: float | None = None

    @property
    def fsal(self) -> bool:
        """Whether the last stage of a step is the first of the next."""
        return self.solution is None

    @property
    def stages(self) -> int:
        """Number of the step's own stages."""
        return len(self.btilde) or len(self.a) + 1

    @cached_property
    def b(self) -> tuple[float, ...]:
        """Weights of the new state."""
        return self.a[self.stages - 2] if self.solution is None else self.solution

    @cached_property
    def stiffness(self) -> tuple[float, ...] | None:
        """Weights of the difference of the last two stages' states, if both lie at the step's end."""
        if self.stages < 3 or self.c[self.stages - 3 : self.stages - 1] != (1.0, 1.0):
            return None
        before, last = self.a[self.stages - 3 : self.stages - 1]
        return tuple(b - a for a, b in zip((*before, 0.0), last, strict=True))

    @cached_property
    def inner_rows(self) -> tuple[Row, ...]:
        """The stages from the second on that come before the new state."""
        count = self.stages - (2 if self.fsal else 1)
        return tuple(zip(self.c[:count], self.a[:count], strict=True))

    @cached_property
    def interpolant_rows(self) -> tuple[Row, ...]:
        """The stages that only the interpolant needs."""
        own = self.stages - 1
        return tuple(zip(self.c[own:], self.a[own:], strict=True))

    def interpolant_weights(self, theta: float) -> list[float]:
        """Weights b_i(theta) of the stages in u(t + theta dt) = u + dt sum_i b_i(theta) k_i."""
        weights = []
        for coefficients in self.interpolant:
            weight = 0.0
            for coefficient in reversed(coefficients):
                weight = (weight + coefficient) * theta
            weights.append(weight)
        return weights
