"""The dynamics' kinetic energy and the size of their Jacobian as a term of the loss."""

import math
from dataclasses import dataclass

import torch

from pylocalreg.checks import check_count, check_number
from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Dynamics, Engine
from pylocalreg.errors import OptionError
from pylocalreg.regularizers.base import Regularized, check_generator, draw_seed
from pylocalreg.regularizers.integral import Integral, derivative_of


@dataclass(frozen=True)
class RNODE(Integral):
    """``kinetic`` K + ``jacobian`` J, the integrals over the span of mean(f^2) and of mean((df/du eps)^2)
    (Finlay, Jacobsen, Nurbekyan, Oberman 2020, How to train your neural ODE, sections 3.1 and 3.2).

    Both are means over every element of the batch, so that a coefficient does not depend on how many there
    are; the paper sums over a sample's elements. The draw ``eps`` is normal and held along the solve: J's
    expectation is the integral of |df/du|^2, by Frobenius' norm and for each element (Hutchinson's estimate).
    The paper has eps^T df/du, whose square has the same distribution at every time, and which is dearer: a
    backward pass in each call, in place of a forward-mode derivative.

    The integrals are one more element of the state that is solved, so that they have the solver's accuracy
    and every adjoint. With ``jacobian`` the dynamics are called twice in place of once, the second call
    counted in ``stats.nfe_regularizer``.

    Args:
        kinetic, jacobian: the two terms' coefficients, finite, not negative, and not both 0.
        generator: where ``eps``, one draw a solve, comes from; torch's global CPU generator if None.
        features: how many of the first features, along the state's last dimension, count; all by default. A
            normalizing flow's log density, behind its state, is no part of the paper's f.

    Raises:
        OptionError: a coefficient is none, or both are 0; the generator is not a CPU one; the solver is one
            of SDEs; at the call, the state has fewer features, or the Jacobian is one per sample.
    """

    kinetic: float = 1.0
    jacobian: float = 1.0
    generator: torch.Generator | None = None
    features: int | None = None

    def __post_init__(self) -> None:
        for name in ("kinetic", "jacobian"):
            value = check_number(name, getattr(self, name))
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name} = {value} must be a finite number, 0 or greater")
        if self.kinetic == self.jacobian == 0:
            raise OptionError("kinetic = jacobian = 0: nothing is left to regularize; take regularizer=None")
        if self.features is not None:
            check_count("features", self.features)
        check_generator(self.generator)

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        """As `Regularizer.check`."""
        self.check_solver(engine, solver, "a path of an SDE has no velocity, so no kinetic energy")

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """As `Regularizer.solve`."""
        self._check_features(u0)
        derivative_along = derivative_of(solve.problem.f)
        eps = torch.zeros_like(u0)
        if self.jacobian:
            own = torch.Generator().manual_seed(draw_seed(self.generator))
            counted = self._counted(eps)
            counted.copy_(torch.randn(counted.shape, generator=own, dtype=u0.dtype, device="cpu"))

        def rates(f: Dynamics, t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            velocity = f(t, u)
            rate = self.kinetic * self._counted(velocity).square().mean()
            if self.jacobian:
                along = derivative_along(f, (t, u), (torch.zeros_like(t), eps))
                rate = rate + self.jacobian * self._counted(along).square().mean()
            return velocity, rate

        return self.integrate(solve, u0, rates, 1 if self.jacobian else 0)

    def _counted(self, x: torch.Tensor) -> torch.Tensor:
        """A view of the features that count."""
        return x if self.features is None else x[..., : self.features]

    def _check_features(self, u0: torch.Tensor) -> None:
        if self.features is not None and (u0.dim() == 0 or u0.shape[-1] < self.features):
            raise OptionError(
                f"RNODE with features = {self.features}: a state of shape {tuple(u0.shape)} has fewer in its "
                "last dimension"
            )
