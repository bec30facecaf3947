"""What a Rosenbrock-Wanner method is made of."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class RosenbrockTableau:
    """An embedded Rosenbrock-Wanner pair with a dense output, in the form without products by the Jacobian
    (Hairer, Wanner II, IV.7).

    The stages z solve (I - h J) z_i = h (f(t + c_i dt, u + sum_j a_ij z_j) + d_i dt df/dt)
    + gamma sum_j C_ij z_j with h = gamma dt.

    Attributes:
        order: order of the solution that is carried on.
        a, C: rows of the stages 2, 3, ...
        c: nodes of all stages.
        d: weights of df/dt of all stages.
        b: u_new = u + sum_i b_i z_i; a method may have one more stage, for its error estimate.
        btilde: weights of the error estimate.
        H: dense output: u(t + theta dt) = (1 - theta) u + theta (u_new + (1 - theta) (h_1 + theta (h_2
            + theta h_3))) with h_k = sum_i H_ki z_i.
        adaptive_order: of the error estimate, where the stack does not take the usual ``order`` - 1.
        fsal: whether the last stage evaluates f at the new state.
    """

    name: str
    source: str
    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    C: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    d: tuple[float, ...]
    b: tuple[float, ...]
    btilde: tuple[float, ...]
    H: tuple[tuple[float, ...], ...]
    fsal: bool = False
    adaptive_order: int | None = None

    @property
    def stages(self) -> int:
        return len(self.c)

    @cached_property
    def gamma_C(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(self.gamma * weight for weight in row) for row in self.C)

    @cached_property
    def dense(self) -> tuple[tuple[float, ...], ...]:
        """Weights of the stages in the coefficients of theta, theta^2, ... of u(t + theta dt) - u."""
        zeros = (0.0,) * len(self.b)
        rows = [tuple(b + h for b, h in zip(self.b, self.H[0], strict=True))]
        for lower, upper in zip(self.H, (*self.H[1:], zeros), strict=True):
            rows.append(tuple(h - g for g, h in zip(lower, upper, strict=True)))
        return tuple(rows)
