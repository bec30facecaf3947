"""The automatic first step, the controllers and the landing on tensors, each number a scalar of the state's
dtype.

The formulas, and the order of their roundings, are those of `initial_step`, `controller`, `landing` and
`fastpower`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from pylocalreg.engines.torch_engine.controller import OLD_ERROR_FLOOR
from pylocalreg.engines.torch_engine.fastpower import EXP2, LOG
from pylocalreg.engines.torch_engine.landing import STRETCH

NUMBERS = OLD_ERROR_FLOOR, *LOG, *EXP2
"""The formulas' own, which are given as tensors: a compiler takes a module's floats for what may change."""


class TensorControl(Protocol):
    """A controller between two steps; its memory, in double precision, is given and given back."""

    def propose(
        self,
        tried: torch.Tensor,
        proposed: torch.Tensor,
        error: torch.Tensor,
        memory: torch.Tensor,
        first: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Whether the step of size ``tried`` is accepted, the next one, and what to remember.

        An accepted step's size is changed from what was ``proposed`` before its end cut it; ``first`` says
        that none was accepted before.
        """


@dataclass(frozen=True)
class TensorPI:
    """`PIControl`; its memory is the last accepted error."""

    REMEMBERS: ClassVar = 1

    numbers: Sequence[torch.Tensor]
    """`NUMBERS`, in double precision."""
    gamma: torch.Tensor
    smallest_q_first_step: torch.Tensor
    smallest_q: torch.Tensor
    largest_q: torch.Tensor
    qsteady_min: torch.Tensor
    qsteady_max: torch.Tensor
    beta1: torch.Tensor
    beta2: torch.Tensor

    def propose(
        self,
        tried: torch.Tensor,
        proposed: torch.Tensor,
        error: torch.Tensor,
        memory: torch.Tensor,
        first: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        accepted = error <= 1
        floor, *of_power = self.numbers
        raised = fastpower(error, self.beta1, of_power)
        rejected_q = torch.minimum(self.largest_q, raised / self.gamma)
        rejected_q = torch.where(error.isfinite(), rejected_q, self.largest_q)
        q = raised / fastpower(memory[0].to(error.dtype), self.beta2, of_power) / self.gamma
        q = torch.where(error == 0, torch.zeros_like(q), q)
        smallest_q = torch.where(first, self.smallest_q_first_step, self.smallest_q)
        q = torch.minimum(torch.maximum(q, smallest_q), self.largest_q)
        kept = (self.qsteady_min <= q) & (q <= self.qsteady_max)
        dt = torch.where(accepted, torch.where(kept, proposed, proposed / q), tried / rejected_q)
        return accepted, dt, torch.where(accepted, torch.maximum(error.double(), floor), memory)


@dataclass(frozen=True)
class TensorPID:
    """`PIDControl` with the limiter `smooth`, its numbers in double precision; its memory are the inverses of
    the last two accepted errors.
    """

    REMEMBERS: ClassVar = 2

    beta1: torch.Tensor
    beta2: torch.Tensor
    beta3: torch.Tensor
    accept_safety: torch.Tensor
    qsteady_min: torch.Tensor
    qsteady_max: torch.Tensor
    smallest: torch.Tensor

    def propose(
        self,
        tried: torch.Tensor,
        proposed: torch.Tensor,
        error: torch.Tensor,
        memory: torch.Tensor,
        first: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        finite = error.isfinite()
        inverse = 1 / torch.maximum(error.double(), self.smallest)
        inverse = torch.where(finite, inverse, torch.zeros_like(inverse))
        before, earlier = memory.unbind()
        power = inverse**self.beta1 * before**self.beta2 * earlier**self.beta3
        factor = 1 + torch.atan(power - 1)
        accepted = (factor >= self.accept_safety) & finite
        kept = (self.qsteady_min <= 1 / factor) & (1 / factor <= self.qsteady_max)
        scaled = (torch.where(accepted, proposed, tried).double() * factor).to(tried.dtype)
        dt = torch.where(accepted & kept, proposed, scaled)
        return accepted, dt, torch.where(accepted, torch.stack((inverse, before)), memory)


def evened(step: torch.Tensor, distance: torch.Tensor, dtmax: torch.Tensor) -> torch.Tensor:
    """`landing.evened`, without a smallest step."""
    steps = torch.ceil(distance / torch.minimum(step * STRETCH, dtmax))
    return torch.where((steps > 2) | (step >= distance), step, distance / steps)


def fastpower(x: torch.Tensor, y: torch.Tensor, numbers: Sequence[torch.Tensor]) -> torch.Tensor:
    """`fastpower.fastpower` with its ``numbers``.

    A number that was rounded to float32 goes through an operation before it is used in double precision:
    inductor takes two conversions in a row for one, and drops the rounding.
    """
    a, b, c, *of_exp2 = numbers
    significand, exponent = torch.frexp(x.float())
    small = significand < 0.75
    s = torch.where(small, 2 * significand, significand).double()
    exponent = torch.where(small, exponent - 1, exponent)
    quotient = (s * a + b).float() / (s + c).float()
    power = ((s - 1) * quotient.double() + exponent.double()).float() * y.float()
    whole = power.double().round()
    fraction = power.double() - whole
    value = (fraction * of_exp2[-1] + of_exp2[-2]).float()
    for coefficient in of_exp2[-3::-1]:
        value = (fraction * value.abs().double() + coefficient).float()  # positive anyway
    return (value.abs().double() * torch.exp2(whole)).to(x.dtype)


def spacing(x: torch.Tensor) -> torch.Tensor:
    """From ``x``, not negative, to the next larger number."""
    return torch.nextafter(x, torch.full_like(x, torch.inf)) - x


def first_step(
    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    t: torch.Tensor,
    t_end: torch.Tensor,
    largest_dt: torch.Tensor,
    order: torch.Tensor,
    measure: Callable[[torch.Tensor], torch.Tensor],
    u: torch.Tensor,
    f0: torch.Tensor,
) -> torch.Tensor:
    """The signed step at (t, u), where f is ``f0``; NaN where something is not finite. ``measure`` is the
    rms over the tolerances.
    """
    direction = torch.sign(t_end - t)
    smallest_dt = torch.nextafter(spacing(t.abs()), torch.full_like(t, torch.inf))
    small = smallest_dt.clamp(min=1e-6)
    d0, d1 = measure(u), measure(f0)
    dt0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), small, d0 / d1 / 100)
    dt0 = torch.minimum(dt0, largest_dt)
    f1 = f(t + direction * dt0, torch.addcmul(u, f0, direction * dt0))
    d2 = measure(f1 - f0) / dt0
    largest = torch.maximum(d1, d2)
    power = torch.pow(10.0, -(2 + largest.log10()) / order)
    dt1 = torch.where(largest <= 1e-15, (dt0 * 1e-3).clamp(min=1e-6), power)
    dt1 = torch.where(d2 == 0, largest_dt, dt1)
    dt = torch.maximum(smallest_dt, torch.minimum(torch.minimum(100 * dt0, dt1), largest_dt))
    dt = torch.where(dt0 < 10 * torch.finfo(t.dtype).eps, small, dt)
    finite = d0.isfinite() & d1.isfinite() & largest.isfinite()
    return torch.where(finite, direction * dt, torch.full_like(t, torch.nan))
