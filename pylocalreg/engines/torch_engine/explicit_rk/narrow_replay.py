"""Steps of a chain that is narrower than its state, reversed among its hidden values."""

import functools
from collections.abc import Iterable, Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.explicit_rk.kept import StepGraph
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain, at
from pylocalreg.engines.torch_engine.explicit_rk.narrow_gradients import NarrowGradients, Sum
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.pulled_back import pulled_back
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class NarrowReplay(ExplicitRKReplay):
    """With x_i the states that stages are evaluated at, z_i = x_i W_in, bars for cotangents, c_s for those
    of sums of the stages by weights w_s:

    k_bar_i = dt sum_s w_si c_s + g_i W_in', where g_i = dt sum_{j>i} a_ji z_bar_j. So h_bar_i =
    k_bar_i W_out' is found among the hidden values, and of sum_i x_i' z_bar_i and sum_i h_i' k_bar_i, the
    gradients by W_in and W_out, all that is of the state's size can be taken out of the sums.
    """

    def __init__(
        self,
        chain: NarrowChain,
        f: RightHandSide,
        tableau: Tableau,
        problem: Problem,
        trajectory: Trajectory,
    ) -> None:
        super().__init__(f, tableau, problem, trajectory)
        self.chain = chain
        self.gradients = NarrowGradients(chain, len(problem.params))
        self.grad_params = self.gradients

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        if estimate is not None and (estimate.quantity != "error" or estimate.gradient == "frozen"):
            return super().reverse(index, u, adjoint, inside, estimate)
        self._take_hidden(index, u, bool(inside), estimate is not None)
        t, rows = self.trajectory.t[index], self.chain.rows
        of_solution: list[Sum] = [
            (self.tableau.interpolant_weights((time - t) / self.dt), rows(cotangent))
            for time, cotangent in inside
        ]
        if adjoint is not None:
            of_solution.append((self.tableau.b, rows(adjoint)))
        if estimate is None:
            z_bar = self._sweep(of_solution)
        else:
            by_u, of_estimate = self._of_estimate(estimate)
            # one sweep for the parameters of both
            z_bar = self._sweep([*of_solution, *of_estimate], keep_graph=not estimate.through_state)
            if not estimate.through_state:
                if not of_solution:
                    return None
                z_bar = self._sweep(of_solution, to_params=False)
        adjoint = torch.zeros_like(u) if adjoint is None else adjoint.contiguous()
        for _, cotangent in inside:
            adjoint.add_(cotangent)
        if estimate is not None and estimate.through_state:
            adjoint.add_(by_u.view_as(u))
        rows(adjoint).addmm_(z_bar, self.chain.W_in.T)
        return adjoint

    def _take_hidden(self, index: int, u: torch.Tensor, interpolated: bool, estimated: bool) -> None:
        """The calls of a step from ``u``, as many as are needed."""
        chain, tableau = self.chain, self.tableau
        stages = tableau.stages if estimated else len(tableau.b)
        if interpolated:
            stages = len(tableau.interpolant)
        self.rows, self.dt, t = chain.rows(u), self.trajectory.dt[index], self.trajectory.t[index]
        kept = self.trajectory.memory.get(index)
        with torch.enable_grad():
            if isinstance(kept, StepGraph) and len(kept.calls) == stages:
                self.trajectory.memory[index] = None  # it serves once: a second backward takes the step again
                self.calls = [call for call in kept.calls if isinstance(call, HiddenCall)]
                if len(self.calls) < stages:  # the first stage was called without a graph
                    self.calls.insert(0, chain.call_of(self.rows, t))
            else:
                of_u = self.rows @ chain.W_in
                first = chain.call(of_u + at(chain.b_in, t), t)
                self.calls = chain.calls(first, of_u, tableau, t, self.dt, stages)

    def _of_estimate(self, step: StepCotangent) -> tuple[torch.Tensor, list[Sum]]:
        """From the cotangent of the step's estimate those of its state and of sums of its stages."""
        tableau, chain, problem = self.tableau, self.chain, self.problem
        error = chain.sum_of(tableau.btilde, self.calls, self.dt).requires_grad_()
        u_new = chain.sum_of(tableau.b, self.calls, self.dt).add_(self.rows).requires_grad_()
        u = self.rows.detach().requires_grad_()
        with torch.enable_grad():
            value = scaled_rms(error, u, u_new, problem.abstol, problem.reltol) * abs(self.dt)
        by_error, by_u, by_u_new = torch.autograd.grad(value, (error, u, u_new), step.cotangent)
        return by_u.add_(by_u_new), [(tableau.btilde, by_error), (tableau.b, by_u_new)]

    def _sweep(self, sums: Sequence[Sum], to_params: bool = True, keep_graph: bool = False) -> torch.Tensor:
        """sum_i z_bar_i; adds the gradients by parameters."""
        chain, calls, dt, a = self.chain, self.calls, self.dt, self.tableau.a
        to_params = to_params and bool(self.params)
        of_sums = [(weights, c @ chain.W_out.T) for weights, c in sums]
        z_bars: dict[int, torch.Tensor] = {}
        for i in reversed(range(len(calls))):
            h_bar = _weighted(((weights[i], x) for weights, x in of_sums if i < len(weights)), dt)
            g = _weighted(((a[j - 1][i], z_bar) for j, z_bar in z_bars.items()), dt)
            if g is not None:
                h_bar = g @ chain.both.T if h_bar is None else h_bar.addmm_(g, chain.both.T)
            if h_bar is None:
                continue
            between = chain.between if to_params else ()
            wanted = calls[i].given, *(x for weight, biases in between for x in (weight, *biases))
            z_bar, *by_between = pulled_back(calls[i].output, wanted, h_bar, keep_graph)
            assert z_bar is not None
            z_bars[i] = z_bar
            if to_params:
                self.gradients.add_call(calls[i], z_bar, by_between, g)
        total = functools.reduce(torch.add, z_bars.values())
        if to_params:
            self.gradients.add_step(self.rows, total, sums, calls, dt)
        return total


def _weighted(terms: Iterable[tuple[float, torch.Tensor]], dt: float) -> torch.Tensor | None:
    """dt times the sum of the terms by their weights; None where all of these are 0."""
    there = [(weight, x) for weight, x in terms if weight]
    return combine(None, [weight for weight, _ in there], [x for _, x in there], dt) if there else None
