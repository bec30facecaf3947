"""Steps whose calls of f keep their graphs, so that the discrete adjoint need not take them again."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.explicit_rk.attempt import Attempted, EagerAttempt
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain, narrow_chain
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau

T = TypeVar("T")

AUTO = 1 << 28
"""Bytes of graphs that ``keep_stages="auto"`` keeps of a solve."""


@dataclass(frozen=True)
class Call:
    """One call of f with its graph: the leaf it was called with, and what it gave."""

    input: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True)
class StepGraph:
    """The calls of a step's stages; None where a stage was not called with a graph."""

    calls: Sequence[Call | HiddenCall | None]


def keeping_attempt(
    f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem
) -> "KeepingAttempt":
    """For the steps of one solve from ``u``."""
    chain = narrow_chain(f, tableau, u, problem)
    if chain is None:
        return KeepingAttempt(f, tableau, u, problem)
    return NarrowKeepingAttempt(chain, f, tableau, u, problem)


class KeepingAttempt(EagerAttempt):
    """As `EagerAttempt`, to the same digits; the stages that a step's end depends on keep their graphs."""

    def __init__(self, f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem) -> None:
        super().__init__(f, tableau, u, problem)
        self.left = math.inf
        self.bytes: _Bytes | None = None
        if problem.keep_stages == "auto":
            self.left, self.bytes = AUTO, _Bytes(problem.params)
        self.graph: StepGraph | None = None
        self.first: tuple[torch.Tensor, Call | HiddenCall] | None = None
        self.following: tuple[torch.Tensor, Call | HiddenCall] | None = None

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        if self.left < 0:
            self.graph = None
            return super().__call__(t, u, dt, k1, spare)
        tableau, ks, first = self.tableau, [k1], self.first
        calls = [first[1] if first is not None and first[0] is k1 else None]

        def stage(time: float, state: torch.Tensor) -> Call | HiddenCall:
            with torch.enable_grad():
                call, k = self._counted(lambda: self._call(time, state))
            calls.append(call)
            ks.append(k)
            return call

        for c, a in tableau.inner_rows:
            stage(t + c * dt, combine(u, a, ks, dt))
        u_new = combine(u, tableau.b, ks, dt)
        if tableau.fsal:
            last = stage(t + dt, u_new)
            self.following = ks[-1], last
        self.graph = StepGraph(calls[: len(tableau.b)])
        if not tableau.btilde:
            return u_new, ks, float("nan")
        combine(None, tableau.btilde, ks, dt, out=self.error)
        return u_new, ks, self.error_norm(self.error, u_new)

    def _call(self, t: float, u: torch.Tensor) -> tuple[Call | HiddenCall, torch.Tensor]:
        """f at (t, u) with its graph, and what it gave."""
        leaf = u.detach().requires_grad_()
        call = Call(leaf, self.f.owned(t, leaf))
        return call, call.output.detach()

    def advance(self) -> None:
        super().advance()
        self.first, self.following = self.following, None
        if self.bytes is not None and self.graph is not None:
            self.left -= self.bytes.of_one * len(self.graph.calls)

    def memory(self) -> StepGraph | None:
        return self.graph

    def _counted(self, call: Callable[[], T]) -> T:
        if self.bytes is None or self.bytes.of_one:
            return call()
        nfe = self.f.nfe
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.bytes, lambda x: x):
                return call()
        except RuntimeError:  # torch.func in f takes no such hooks: what its calls keep is not told
            self.f.nfe, self.left, self.bytes = nfe, -1, None
            return call()


class NarrowKeepingAttempt(KeepingAttempt):
    """Of a chain that is narrower than its state: of a call, what is among its hidden values."""

    def __init__(
        self, chain: NarrowChain, f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem
    ) -> None:
        super().__init__(f, tableau, u, problem)
        self.chain = chain

    def _call(self, t: float, u: torch.Tensor) -> tuple[HiddenCall, torch.Tensor]:
        self.f.nfe += 1
        call = self.chain.call_of(self.chain.rows(u), t)
        return call, self.chain.k(call).view_as(u)


class _Bytes:
    """What a call of f keeps beside the parameters, found at the first."""

    def __init__(self, params: Iterable[torch.Tensor]) -> None:
        self.seen, self.of_one = {p.untyped_storage().data_ptr() for p in params}, 0

    def __call__(self, saved: torch.Tensor) -> torch.Tensor:
        memory = saved.untyped_storage()
        if memory.data_ptr() not in self.seen:
            self.seen.add(memory.data_ptr())
            self.of_one += memory.nbytes()
        return saved.detach()  # a saved output would hold its own graph for ever
