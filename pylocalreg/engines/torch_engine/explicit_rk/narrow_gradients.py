"""Gradients by the parameters of a chain that is narrower than its state, summed over a solve's steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain, in_time
from pylocalreg.engines.torch_engine.explicit_rk.step import combine
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum


@dataclass(frozen=True)
class Sum:
    """The cotangent of dt * sum_i weights_i k_i, and what it gives a stage's hidden values."""

    weights: Sequence[float]
    cotangent: torch.Tensor
    by_h: torch.Tensor

    @classmethod
    def of(cls, chain: NarrowChain, weights: Sequence[float], cotangent: torch.Tensor) -> "Sum":
        return cls(weights, cotangent, cotangent @ chain.W_out.T)

    def __add__(self, other: "Sum") -> "Sum":
        """Both, where the weights are the same."""
        return Sum(self.weights, self.cotangent + other.cotangent, self.by_h + other.by_h)


class NarrowGradients(GradientSum):
    """The letters are those of `NarrowStep`."""

    def __init__(self, chain: NarrowChain, count: int) -> None:
        super().__init__(count)
        self.chain = chain
        self.total = chain.layers.zeros()
        (self.by_W_in, self.by_b_in), *self.between, (self.by_W_out, self.by_b_out) = self.total
        # of the products that are among hidden values, the sums over all calls
        self.of_h = torch.zeros_like(chain.both)
        self.of_g = [torch.zeros_like(b) for b in self.by_b_in]
        self.added = False

    def add_call(
        self,
        call: HiddenCall,
        z_bar: torch.Tensor,
        by_between: Sequence[torch.Tensor | None],
        g: torch.Tensor | None,
    ) -> None:
        """What is found of a call by itself."""
        _add_biases(self.by_b_in, (1.0, call.t), z_bar)
        sums = (x for weight, biases in self.between for x in (weight, *biases))
        for total, gradient in zip(sums, by_between, strict=True):
            if gradient is not None:
                total.add_(gradient)
        if g is not None:
            self.of_h.addmm_(call.h.T, g)
            _add_biases(self.of_g, (1.0, call.t), g)

    def add_step(
        self,
        u: torch.Tensor,
        z_bar: torch.Tensor,
        sums: Sequence[Sum],
        calls: Sequence[HiddenCall],
        dt: float,
    ) -> None:
        """What is found of a whole step from ``u``, ``z_bar`` the sum over its calls."""
        self.added = True
        self.by_W_in.addmm_(u.T, z_bar)
        for s in sums:
            hidden = combine(None, s.weights, [call.h for call in calls], dt)
            self.by_W_out.addmm_(hidden.T, s.cotangent)
            _add_biases(self.by_b_out, [dt * x for x in in_time(s.weights, calls)], s.cotangent)

    @property
    def tensors(self) -> list[torch.Tensor | None]:
        """Each step's x_i is u and the k_j before it, and its k_bar_i has g_i W_in': here are their parts."""
        beside = super().tensors
        if not self.added:
            return beside
        chain = self.chain
        total = [(weight.clone(), [b.clone() for b in biases]) for weight, biases in self.total]
        (by_W_in, _), *_, (by_W_out, by_b_out) = total
        by_W_in.addmm_(chain.W_out.T, self.of_h)
        by_W_out.addmm_(self.of_h, chain.W_in.T)
        for b, by_b, of_g in zip(chain.b_out, by_b_out, self.of_g, strict=True):
            by_W_in.addr_(b, of_g)
            by_b.addmv_(chain.W_in, of_g)
        parts = chain.layers.by_parameter(total)
        return [part if x is None else part.add_(x) for part, x in zip(parts, beside, strict=True)]


def _add_biases(biases: Sequence[torch.Tensor], weights: Sequence[float], cotangent: torch.Tensor) -> None:
    """Add to the cotangents of b and b_by_t that of rows of weights_0 b + weights_1 b_by_t."""
    of_rows = cotangent.sum(0)
    for b, weight in zip(biases, weights, strict=False):
        b.add_(of_rows, alpha=weight)
