"""What an explicit Runge-Kutta method is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """An embedded explicit Runge-Kutta pair whose last stage is the first of the next step (FSAL).

    Attributes:
        order: order of the solution that is carried on.
        c: nodes of the stages 2, 3, ...; stage 1 is at the step's start.
        a: weights of the stages 2, 3, ...; the last row gives the new state, at which the last stage
            is evaluated.
        btilde: weights of the error estimate, one for each stage.
        interpolant: for each stage the coefficients of theta, theta^2, ... of its dense output weight.
    """

    name: str
    source: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    btilde: tuple[float, ...]
    interpolant: tuple[tuple[float, ...], ...]

    @property
    def stages(self) -> int:
        return len(self.btilde)

    def interpolant_weights(self, theta: float) -> list[float]:
        """Weights b_i(theta) of the stages in u(t + theta dt) = u + dt sum_i b_i(theta) k_i."""
        weights = []
        for coefficients in self.interpolant:
            weight = 0.0
            for coefficient in reversed(coefficients):
                weight = (weight + coefficient) * theta
            weights.append(weight)
        return weights
