"""Times that may be tensors, and the gradients by them: dL/dt of a state at t is <dL/du(t), f(t, u(t))>."""

from collections.abc import Iterator
from typing import Any

import torch

from pylocalreg.engines.base import Problem
from pylocalreg.errors import DoubleBackwardError
from pylocalreg.observed.output import check_output
from pylocalreg.observed.reached import is_transformed


class Moments(torch.nn.Module):
    """Times as they were given, in a sequence or a tensor; those that are parameters are this module's."""

    def __init__(self, times: Any) -> None:
        super().__init__()
        self.numbers: tuple[float, ...] | None = None
        """The times, where all are Python's own numbers."""
        self._given = times if isinstance(times, torch.Tensor) or not _is_iterable(times) else list(times)
        if isinstance(times, torch.nn.Parameter):
            self._given = None
            self.times = times
        elif isinstance(self._given, list):
            for i, t in enumerate(self._given):
                if isinstance(t, torch.nn.Parameter):
                    self.register_parameter(f"time{i}", t)
            if all(type(t) is float or (type(t) is int and abs(t) < 2**53) for t in self._given):
                self.numbers = tuple(float(t) for t in self._given)

    def __iter__(self) -> Iterator[Any]:
        """Each time: a number or a tensor, or whatever was given."""
        given: Any = self._parameters["times"] if self._given is None else self._given
        if isinstance(given, torch.Tensor) and given.dim() == 0:
            raise TypeError("a single time is no sequence")
        if isinstance(given, torch.Tensor):
            yield from given.unbind()
        else:
            yield from (self._parameters.get(f"time{i}", t) for i, t in enumerate(given))

    def __repr__(self) -> str:
        return repr(self._parameters["times"] if self._given is None else self._given)

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Those that want a gradient."""
        if self.numbers is not None:
            return (None,) * len(self.numbers)
        return tuple(
            t if isinstance(t, torch.Tensor) and (t.requires_grad or is_transformed(t)) else None
            for t in self
        )


def _is_iterable(times: Any) -> bool:
    return hasattr(times, "__iter__") and not isinstance(times, str)


def to_time(u: torch.Tensor, time: torch.Tensor, t: float, problem: Problem) -> torch.Tensor:
    """``u``, the state at ``t``, as one that moves with ``time``, the tensor that says when."""
    return _at_time(u, time, t, problem, 1.0)


def from_time(u0: torch.Tensor, time: torch.Tensor, problem: Problem) -> torch.Tensor:
    """``u0`` as the state that a solve starts from at ``time``."""
    return _at_time(u0, time, problem.tspan[0], problem, -1.0)


def velocity_at(u: torch.Tensor, t: float, problem: Problem) -> torch.Tensor:
    """f(t, u), without a graph."""
    with torch.no_grad():
        velocity = problem.f(u.detach().new_full((), t), u.detach())
    check_output(velocity, t, u)
    return velocity


def _at_time(u: torch.Tensor, time: torch.Tensor, t: float, problem: Problem, sign: float) -> torch.Tensor:
    state: torch.Tensor = _AtTime.apply(velocity_at(u, t, problem) * sign, u, time)  # type: ignore[no-untyped-call]
    return state


class _AtTime(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(velocity: torch.Tensor, u: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return u.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        velocity, _, time = inputs
        ctx.save_for_backward(velocity)
        ctx.shape, ctx.dtype, ctx.device = time.shape, time.dtype, time.device

    @staticmethod
    def backward(ctx: Any, by_u: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor]:
        (velocity,) = ctx.saved_tensors
        by_time = (velocity * by_u).sum().to(ctx.device, ctx.dtype).reshape(ctx.shape)
        if torch.is_grad_enabled():
            by_time = _FirstOnly.apply(by_time)  # type: ignore[no-untyped-call]
        return None, by_u, by_time


class _FirstOnly(torch.autograd.Function):
    """A gradient that can not be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, by_x: torch.Tensor) -> torch.Tensor:
        raise DoubleBackwardError(
            "gradients by the times of a solve (tspan, saveat) have no second derivatives: give numbers"
        )
