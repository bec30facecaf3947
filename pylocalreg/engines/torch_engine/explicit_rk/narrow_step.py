"""One step of a chain that is narrower than its state, reversed among its hidden values."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.error_norm import scaled_rms_reversed
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain, at
from pylocalreg.engines.torch_engine.explicit_rk.narrow_gradients import NarrowGradients, Sum
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.pulled_back import pulled_back
from pylocalreg.engines.torch_engine.tableaus import Tableau


@dataclass(frozen=True)
class NarrowStep:
    """The step of size ``dt`` from the state ``u``, as rows, with its calls' graphs.

    With x_i the states that the stages are evaluated at, z_i = x_i W_in, bars for cotangents, and c_s for
    those of sums of the stages by weights w_s:

    k_bar_i = dt sum_s w_si c_s + g_i W_in', where g_i = dt sum_{j>i} a_ji z_bar_j. So h_bar_i =
    k_bar_i W_out' is found among the hidden values, and of sum_i x_i' z_bar_i and sum_i h_i' k_bar_i, the
    gradients by W_in and W_out, all that is of the state's size can be taken out of the sums.
    """

    chain: NarrowChain
    tableau: Tableau
    u: torch.Tensor
    dt: float
    calls: Sequence[HiddenCall]

    @classmethod
    def taken(
        cls, chain: NarrowChain, tableau: Tableau, t: float, u: torch.Tensor, dt: float, stages: int
    ) -> "NarrowStep":
        """From (t, u), as many stages as are needed."""
        of_u = u @ chain.W_in
        with torch.enable_grad():
            first = chain.call(of_u + at(chain.b_in, t), t)
            return cls(chain, tableau, u, dt, chain.calls(first, of_u, tableau, t, dt, stages))

    def estimate(
        self,
        problem: Problem,
        cotangent: torch.Tensor | float,
        u_new: torch.Tensor | None = None,
        to_u: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """EEst * abs(dt), and from its ``cotangent`` those of dt * sum_i btilde_i k_i, of the state after the
        step, which may be known as ``u_new``, and, if it is wanted, of the state before it.
        """
        chain, tableau, dt = self.chain, self.tableau, self.dt
        if u_new is None:
            u_new = chain.sum_of(tableau.b, self.calls, dt).add_(self.u)
        error, tolerances = chain.sum_of(tableau.btilde, self.calls, dt), (problem.abstol, problem.reltol)
        EEst, by_error, by_new, by_u = scaled_rms_reversed(
            error, self.u, u_new, *tolerances, cotangent * abs(dt), to_u=to_u
        )
        return EEst * abs(dt), by_error, by_new, by_u

    def sweep(
        self, sums: Sequence[Sum], gradients: NarrowGradients | None = None, keep_graph: bool = False
    ) -> torch.Tensor:
        """sum_i z_bar_i; adds to the gradients by parameters."""
        chain, calls, dt, a = self.chain, self.calls, self.dt, self.tableau.a
        z_bars: dict[int, torch.Tensor] = {}
        for i in reversed(range(len(calls))):
            h_bar = _weighted(((s.weights[i], s.by_h) for s in sums if i < len(s.weights)), dt)
            g = _weighted(((a[j - 1][i], z_bar) for j, z_bar in z_bars.items()), dt)
            if g is not None:
                h_bar = g @ chain.both.T if h_bar is None else h_bar.addmm_(g, chain.both.T)
            if h_bar is None:
                continue
            between = [] if gradients is None else calls[i].between
            wanted = calls[i].given, *(x for weight, biases in between for x in (weight, *biases))
            z_bar, *by_between = pulled_back(calls[i].output, wanted, h_bar, keep_graph)
            assert z_bar is not None
            z_bars[i] = z_bar
            if gradients is not None:
                gradients.add_call(calls[i], z_bar, by_between, g)
        total = functools.reduce(torch.add, z_bars.values())
        if gradients is not None:
            gradients.add_step(self.u, total, sums, calls, dt)
        return total


def _weighted(terms: Iterable[tuple[float, torch.Tensor]], dt: float) -> torch.Tensor | None:
    """dt times the sum of the terms by their weights; None where all of these are 0."""
    there = [(weight, x) for weight, x in terms if weight]
    return combine(None, [weight for weight, _ in there], [x for _, x in there], dt) if there else None
