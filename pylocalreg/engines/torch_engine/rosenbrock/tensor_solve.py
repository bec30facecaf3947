"""Solves by a Rosenbrock method as functions of tensors, for a compiler."""

import functools

import torch

from pylocalreg.engines.torch_engine.explicit_rk.tensor_control import NUMBERS
from pylocalreg.engines.torch_engine.explicit_rk.tensor_loop import LoopNumbers, TensorLoop
from pylocalreg.engines.torch_engine.explicit_rk.tensor_step import placed, scaled_norm, weighted_sum
from pylocalreg.engines.torch_engine.functional import Functional
from pylocalreg.engines.torch_engine.linearization import calls_of_linearization, directions
from pylocalreg.engines.torch_engine.rosenbrock.tableau import RosenbrockTableau

LARGEST = 32
"""Unknowns up to which the inverse of a matrix is cheaper than to solve for each stage by itself."""
EEST_SINGULAR = 2.0


class _Layout:
    """The method's numbers, and the places among them of the weights that its sums of stages have."""

    def __init__(self, tableau: RosenbrockTableau) -> None:
        layout = [*tableau.c, *tableau.d]
        self.a = [placed(row, layout) for row in tableau.a]
        self.gamma_C = [placed(row, layout) for row in tableau.gamma_C]
        self.b, self.btilde = placed(tableau.b, layout), placed(tableau.btilde, layout)
        numbers = *layout, tableau.gamma, float(tableau.order), *NUMBERS
        self.of_method = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        self.of_output = torch.tensor(tableau.dense, dtype=torch.float64, device="cpu")


_layout = functools.lru_cache(_Layout)


class RosenbrockSolve(TensorLoop):
    """See `TensorLoop`. The Jacobian is found anew after a rejection too: it is the same."""

    def __init__(self, f: Functional, tableau: RosenbrockTableau) -> None:
        self.f, self.stages = f, tableau.stages
        self.name, self.fsal = tableau.name, tableau.fsal
        self.layout = layout = _layout(tableau)
        self.of_method, self.of_output = layout.of_method, layout.of_output

    def attempted(
        self,
        numbers: LoopNumbers,
        t: torch.Tensor,
        dt: torch.Tensor,
        u: torch.Tensor,
        k1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        T, stages, layout, of_method = u.dtype, self.stages, self.layout, numbers.of_method
        weights = of_method.to(T).unbind()
        times = (t.double() + of_method[:stages] * dt.double()).to(T).unbind()
        of_dT = (of_method[stages : 2 * stages] * dt.double()).to(T).unbind()
        h = (of_method[-2 - len(NUMBERS)] * dt.double()).to(T)
        J, dT = self._linearized(t, u)
        system = _System(torch.eye(len(J), dtype=T, device=u.device) - h * J)
        k, flat = k1, u.reshape(-1)
        z: list[torch.Tensor] = []
        for i in range(stages):
            if i > 0:
                state = weighted_sum(flat, layout.a[i - 1], z, weights)
                k = self.f((), times[i], state.reshape(u.shape)).clone()
            rhs = (k.reshape(-1) + of_dT[i] * dT) * h
            if i > 0:
                rhs = weighted_sum(rhs, layout.gamma_C[i - 1], z, weights)
            z.append(system.solve(rhs))
        u_new = weighted_sum(flat, layout.b, z, weights)
        error = weighted_sum(None, layout.btilde, z, weights)
        norm = scaled_norm(error, flat, u_new, numbers.abstol, numbers.reltol)
        bad = ~norm.isfinite() & (system.info != 0)
        norm = torch.where(bad, EEST_SINGULAR * numbers.root.to(T), norm)
        of_output = [x.reshape(u.shape) for x in z[: len(self.of_output[0])]]
        return norm, u_new.reshape(u.shape), k, of_output

    def unit(self, dt: torch.Tensor) -> float:
        return 1.0

    def calls(self, naccept: int, nreject: int, u: torch.Tensor) -> int:
        tried = naccept + nreject
        of_stages = tried * (self.stages - 1) + (1 if self.fsal else tried)
        return of_stages + naccept * calls_of_linearization(u.numel())

    def _linearized(self, t: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """df/du as a matrix and df/dt, flat: `linearize` without its lock, which no compiler takes."""

        def along(direction: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            _, by_both, *_ = torch.func.jvp(lambda t, u: self.f((), t, u), (t, u), direction)
            derivative: torch.Tensor = by_both.to(u.dtype)  # as in `derivative_along`
            return derivative

        n = u.numel()
        derivatives = torch.vmap(along)(directions(u, "system")).reshape(n + 1, n)
        return derivatives[:-1].t(), derivatives[-1]


class _System:
    """W x = b for several b, one after the other."""

    def __init__(self, W: torch.Tensor) -> None:
        self.W = W
        LU, pivots, self.info = torch.linalg.lu_factor_ex(W)
        unit = torch.eye(len(W), dtype=W.dtype, device=W.device)
        self.inverse = torch.linalg.lu_solve(LU, pivots, unit)

    def solve(self, b: torch.Tensor) -> torch.Tensor:
        """By the inverse, and once more for what that leaves, which makes it as good as by factors."""
        x = _product(self.inverse, b)
        return x + _product(self.inverse, b - _product(self.W, x))


def _product(A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A loop of the kernel, where a library would be called."""
    product: torch.Tensor = (A * x).sum(1)
    return product
