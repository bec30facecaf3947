"""Solves by an explicit Runge-Kutta method, and their adjoints, as functions of tensors."""

import functools

import torch

from pylocalreg.engines.torch_engine.explicit_rk.tensor_control import NUMBERS
from pylocalreg.engines.torch_engine.explicit_rk.tensor_loop import LoopNumbers, Outputs, TensorLoop
from pylocalreg.engines.torch_engine.explicit_rk.tensor_step import TensorStep, TensorSums
from pylocalreg.engines.torch_engine.functional import Functional, Tensors
from pylocalreg.engines.torch_engine.tableaus import Tableau


@functools.lru_cache
def of_output(tableau: Tableau) -> torch.Tensor:
    """For each power of theta the stages' coefficients, in double precision; empty where dense output needs
    more stages than a step has.
    """
    columns = () if tableau.interpolant_rows else tableau.interpolant
    return torch.tensor(columns, dtype=torch.float64, device="cpu").t().contiguous()


@functools.lru_cache
def _of_method(tableau: Tableau) -> torch.Tensor:
    sums = TensorSums(tableau)
    numbers = *sums.nodes, *sums.weights[tableau.stages :], float(tableau.order), *NUMBERS
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


class TensorSolve(TensorStep, TensorLoop):
    """See `TensorLoop`."""

    def __init__(self, f: Functional, tableau: Tableau) -> None:
        super().__init__(f, tableau)
        self.name, self.fsal = tableau.name, tableau.fsal
        self.of_method, self.of_output = _of_method(tableau), of_output(tableau)

    def attempted(
        self,
        numbers: LoopNumbers,
        t: torch.Tensor,
        dt: torch.Tensor,
        u: torch.Tensor,
        k1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tensors]:
        of_step = self._of_step(numbers.of_method, t.double(), dt.double(), u.dtype)
        norm, u_new, *ks = self.attempt_by((*of_step, numbers.abstol, numbers.reltol), u, k1)
        return norm, u_new, ks[-1], (k1, *ks)

    def unit(self, dt: torch.Tensor) -> torch.Tensor:
        return dt

    def calls(self, naccept: int, nreject: int, u: torch.Tensor) -> int:
        return (naccept + nreject) * (self.tableau.stages - self.fsal) + self.fsal

    def _of_step(self, of_method: torch.Tensor, t: torch.Tensor, dt: torch.Tensor, T: torch.dtype) -> Tensors:
        """What `numbers_of` gives, but for the tolerances."""
        by_dt = of_method[: -1 - len(NUMBERS)] * dt
        is_node = torch.arange(len(by_dt), device=by_dt.device) < self.tableau.stages
        return torch.where(is_node, t + by_dt, by_dt).to(T).unbind()

    def reverse_solve(
        self,
        saving: bool,
        params: Tensors,
        of_method: torch.Tensor,
        of_output: torch.Tensor,
        count: torch.Tensor,
        rows: torch.Tensor,
        states: torch.Tensor,
        adjoint: torch.Tensor,
        times: torch.Tensor,
        at_times: torch.Tensor,
    ) -> Tensors:
        """The cotangents of the first state and of each of ``params``, from that of the state after the last
        of ``count`` steps, and, where some were ``saving``, ``at_times`` those of the states at ``times``:
        ``rows`` has the steps' t, dt and ends, in double precision, and ``states`` where they start.
        """
        from torch._higher_order_ops import while_loop

        T = states.dtype

        def left(i, adjoint, *by_params):  # type: ignore[no-untyped-def]
            return i >= 0

        def step(i, adjoint, *by_params):  # type: ignore[no-untyped-def]
            t, dt, t_next = torch.index_select(rows, 0, i.reshape(1)).squeeze(0).unbind()
            u = torch.index_select(states, 0, i.reshape(1)).squeeze(0)
            numbers = self._of_step(of_method, t, dt, T)
            if saving:
                outputs = Outputs(of_output, times, t, dt, t_next, dt)
                given = self.reverse_with(outputs.pulled_back(at_times), params, numbers, u, adjoint)
            else:
                given = self.reverse_by(params, numbers, u, adjoint)
            adjoint, *more = given
            return i - 1, adjoint.clone(), *(a + b for a, b in zip(by_params, more, strict=True))

        start = (count - 1, adjoint.clone(), *(torch.zeros_like(p) for p in params))
        _, adjoint, *by_params = while_loop(left, step, start)  # type: ignore[no-untyped-call]
        return adjoint, *by_params
