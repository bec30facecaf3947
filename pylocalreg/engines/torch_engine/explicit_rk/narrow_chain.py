"""Dense chains narrower than their state, as steps among their hidden values see them.

Of f(t, u) = h W_out + b_out, where the first layer is given u W_in + b_in and the last one h, the stages of a
step meet each other through W_out W_in alone, a small matrix. So three products with the state take a step,
and five reverse it, where each of its stages by itself needs two and four.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.dynamics import ACTIVATIONS
from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.explicit_rk.dense_chain import DenseChain, dense_chain
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.functional import NotFunctionalError, functional
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau

WORTH = 1 << 21
"""Multiplications that take as long as what a step among the hidden values does beside them."""


def narrow_chain(
    f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem
) -> "NarrowChain | None":
    """The dynamics as one; None where they are none, or steps from ``u`` are sooner taken call by call: on a
    GPU, where launches count and not products, always.
    """
    if u.device.type != "cpu" or torch._C._len_torch_function_stack():
        return None
    layers = dense_chain(f.f, problem.params)
    if layers is None:
        return None
    try:
        functional(f.f, problem.params)
    except NotFunctionalError:
        return None
    return NarrowChain(layers) if _is_narrow(layers, len(tableau.b), u) else None


def _is_narrow(layers: DenseChain, stages: int, u: torch.Tensor) -> bool:
    if len(layers.activations) == 1 or layers.activations[-1] is not ACTIVATIONS["identity"]:
        return False
    (first, _), *_, (last, _) = layers.weights()
    (n, into), out = first.shape, len(last)
    batch = u.numel() // n
    of_stages = 3 * stages * into * out * batch
    here = n * batch * (3 * into + 2 * out) + of_stages
    return here + WORTH < 3 * stages * n * batch * (into + out)


@dataclass(frozen=True)
class HiddenCall:
    """A call of f at ``t``: what the first layer's activation is given, and what the last layer is, with the
    graph between them where gradients were enabled, whose leaves are ``between``: the weights and biases of
    the layers between, as the chain that was called holds them. Another chain of the same layers has others.
    """

    t: float
    given: torch.Tensor
    output: torch.Tensor
    between: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]]

    @property
    def h(self) -> torch.Tensor:
        return self.output.detach()


class NarrowChain:
    """The chain with the weights that it has now, for states as rows, of shape (batch, features).

    Biases are with the time's row of the weight behind them, where there is one: `at` sums the two.
    """

    def __init__(self, layers: DenseChain) -> None:
        self.layers, self.activations = layers, layers.activations
        (self.W_in, self.b_in), *between, (self.W_out, self.b_out) = layers.weights()
        self.between = [(w.detach().requires_grad_(), _wanting(b)) for w, b in between]
        self.both = self.W_out @ self.W_in
        self.b_both = [b @ self.W_in for b in self.b_out]

    def rows(self, u: torch.Tensor) -> torch.Tensor:
        return u.reshape(-1, len(self.W_in))

    def call(self, given: torch.Tensor, t: float) -> HiddenCall:
        """f at ``t``, from the state's product with W_in and b_in."""
        h = given.requires_grad_(torch.is_grad_enabled())
        first, *between, _ = self.activations
        h = first(given)
        for (w, b), activation in zip(self.between, between, strict=True):
            h = activation(torch.addmm(at(b, t), h, w))
        return HiddenCall(t, given, h, self.between)

    def call_of(self, rows: torch.Tensor, t: float) -> HiddenCall:
        """f at ``t``, from the state."""
        return self.call(torch.addmm(at(self.b_in, t), rows, self.W_in), t)

    def calls(
        self, first: HiddenCall, of_u: torch.Tensor, tableau: Tableau, t: float, dt: float, stages: int
    ) -> list[HiddenCall]:
        """The first ``stages`` of a step from a state whose product with W_in is ``of_u``."""
        calls = [first]
        of_ks: list[torch.Tensor] = []  # the stages' products with W_in
        for c, a in zip(tableau.c[: stages - 1], tableau.a, strict=False):
            of_ks.append(torch.addmm(at(self.b_both, calls[-1].t), calls[-1].h, self.both))
            time = t + c * dt
            calls.append(self.call(combine(of_u, a, of_ks, dt).add_(at(self.b_in, time)), time))
        return calls

    def k(self, call: HiddenCall) -> torch.Tensor:
        """What f gave."""
        return torch.addmm(at(self.b_out, call.t), call.h, self.W_out)

    def sum_of(self, weights: Sequence[float], calls: Sequence[HiddenCall], dt: float) -> torch.Tensor:
        """dt * sum_i weights_i k_i."""
        bias = combine(None, in_time(weights, calls), self.b_out, dt)
        return torch.addmm(bias, combine(None, weights, [call.h for call in calls], dt), self.W_out)


def at(biases: Sequence[torch.Tensor], t: float) -> torch.Tensor:
    """b + t b_by_t; b alone where the layer is not given the time."""
    return combine(None, (1.0, t), biases, 1.0)


def in_time(weights: Sequence[float], calls: Sequence[HiddenCall]) -> tuple[float, float]:
    """The weights of b and of b_by_t in the sum of the calls' biases."""
    pairs = list(zip(weights, calls, strict=False))
    return sum(weight for weight, _ in pairs), sum(weight * call.t for weight, call in pairs)


def _wanting(biases: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [b.detach().requires_grad_() for b in biases]
