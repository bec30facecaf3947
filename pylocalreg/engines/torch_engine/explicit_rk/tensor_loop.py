"""A whole solve with adaptive steps as one function of tensors, for a compiler: its loop, and what chooses
the steps, are in the function too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pylocalreg.engines.torch_engine.explicit_rk.tensor_control import (
    NUMBERS,
    TensorControl,
    TensorPI,
    TensorPID,
    evened,
    first_step,
    spacing,
)
from pylocalreg.engines.torch_engine.functional import Functional, Tensors
from pylocalreg.engines.torch_engine.together import together

STEPS = 64
"""Accepted steps of one call: what has room in its record."""


@dataclass(frozen=True)
class Steering:
    """How a loop chooses its steps: a function is compiled for each."""

    pid: bool
    """Whether the controller is a `TensorPID`, and not a `TensorPI`."""
    even: bool
    """Whether the last steps are `evened`."""
    automatic: bool
    """Whether the first one is, and dt not looked at."""

    @property
    def remembers(self) -> int:
        return (TensorPID if self.pid else TensorPI).REMEMBERS


class LoopNumbers:
    """What a call of `TensorLoop.solve` is given, in the state's dtype.

    Of one tensor they are views; a loop's function may be given one alone, and takes it apart itself.
    """

    def __init__(
        self, of_method: torch.Tensor, of_call: torch.Tensor, T: torch.dtype, steering: Steering
    ) -> None:
        self.of_method, self.steering = of_method, steering
        order, *own = of_method[-1 - len(NUMBERS) :].unbind()
        t, dt, first, left, t_end, dtmax, abstol, reltol, self.root = of_call[:9].unbind()
        self.t, self.dt, self.first, self.left = t.to(T), dt.to(T), first > 0, left
        self.order, self.t_end, self.dtmax = order.to(T), t_end.to(T), dtmax.to(T)
        self.abstol, self.reltol = abstol.to(T), reltol.to(T)
        self.memory = of_call[9 : 9 + steering.remembers]
        control = of_call[9 + steering.remembers :].unbind()
        self.control: TensorControl
        if steering.pid:
            self.control = TensorPID(*control)
        else:
            self.control = TensorPI(own, *(x.to(T) for x in control))

    def next_size(self, t: torch.Tensor, dt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is proposed, what of it is tried, and whether that lands on the end."""
        direction = torch.sign(self.t_end - t)
        proposed, distance = torch.minimum(dt.abs(), self.dtmax), (self.t_end - t).abs()
        if self.steering.even:
            proposed = evened(proposed, distance, self.dtmax)
        gap = 100 * spacing(torch.maximum(t.abs(), self.t_end.abs()))
        tried = direction * torch.minimum(proposed, distance)
        return direction * proposed, tried, ~(proposed + gap < distance)


class Outputs:
    """Dense output of a step from ``t`` of size ``dt`` to ``t_next``, at ``times``, in double precision: for
    each power of theta the stages' ``coefficients``, times ``unit``.
    """

    def __init__(
        self,
        coefficients: torch.Tensor,
        times: torch.Tensor,
        t: torch.Tensor,
        dt: torch.Tensor,
        t_next: torch.Tensor,
        unit: torch.Tensor | float,
    ) -> None:
        t, dt, t_next = t.double(), dt.double(), t_next.double()
        direction = torch.sign(dt)
        after, before = direction * (times - t) > 0, direction * (times - t_next) < 0
        self.at_end, self.inside = times == t_next, after & before
        theta = ((times - t) / dt).unsqueeze(1)
        weights = torch.zeros_like(coefficients[0] * theta)
        for coefficient in reversed(coefficients.unbind()):
            weights = (weights + coefficient) * theta
        self.weights = weights * unit
        """A row for each time, of the stages' weights."""

    def of(self, u: torch.Tensor, ks: Sequence[torch.Tensor]) -> torch.Tensor:
        """The states, whatever they are where a time is not inside."""
        columns = self.weights.to(u.dtype).unbind(1)
        for k, column in zip(ks, columns, strict=True):
            u = torch.addcmul(u, k, column.reshape(-1, *[1] * k.dim()))
        return u

    def pulled_back(self, cotangents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Of the states at the times: what they add to the cotangents of the step's end, of its start, and of
        its stages.
        """
        T, flat = cotangents.dtype, cotangents.reshape(len(cotangents), -1)
        inside = self.inside.to(T).unsqueeze(1)
        rows = torch.cat((self.at_end.to(T).unsqueeze(1), inside, self.weights.to(T) * inside), 1)
        end, start, *by_stage = (rows.t() @ flat).reshape(-1, *cotangents.shape[1:]).unbind()
        return end, start, by_stage


class TensorLoop(ABC):
    """Steps of a method through ``f``, one after the other: the loop of `integrate`, without its errors."""

    f: Functional
    name: str
    """The method's."""
    fsal: bool
    """Whether what f is called for last in a step is f at its end."""
    of_method: torch.Tensor
    """Of the method, in double precision: its own numbers, its order, and `NUMBERS`."""
    of_output: torch.Tensor
    """For `Outputs`, in double precision; empty where dense output needs more stages than a step has."""

    @abstractmethod
    def attempted(
        self,
        numbers: LoopNumbers,
        t: torch.Tensor,
        dt: torch.Tensor,
        u: torch.Tensor,
        k1: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[torch.Tensor]]:
        """Of a step from (t, u), where f is ``k1``: the square root of sum (error / scale)^2, the new state,
        what f was called for last, and the stages that dense output sums.
        """

    @abstractmethod
    def unit(self, dt: torch.Tensor) -> torch.Tensor | float:
        """Of the stages that dense output sums, in double precision."""

    @abstractmethod
    def calls(self, naccept: int, nreject: int, u: torch.Tensor) -> int:
        """How often f is called in these steps, as the stack counts."""

    def solve(
        self,
        steering: Steering,
        keeping: bool,
        saving: bool,
        of_method: torch.Tensor,
        of_call: torch.Tensor,
        of_output: torch.Tensor,
        times: torch.Tensor,
        u0: torch.Tensor,
    ) -> Tensors:
        """Steps to the end, or until there are `STEPS`.

        ``of_call``, in double precision: where the call starts (t, dt, whether no step was accepted yet) and
        how many steps it may try; t_end, dtmax, abstol, reltol, the root of the number of elements; the
        controller's memory, and its fields, of `TensorPI` those after the first.

        Gives what was counted and where it ended (naccept, nreject, t, dt), the sum of the state there, the
        memory, and behind that t, dt and EEst of the accepted steps, row by row; that state, twice; if they
        are kept, the states that the accepted steps start from; and if they are saved, those at the ``times``
        that these steps pass. What the loop carries is in few tensors: in every step one costs more than a
        sum.
        """
        from torch._higher_order_ops import while_loop  # which old versions do not have

        T = u0.dtype
        numbers = LoopNumbers(of_method, of_call, T, steering)
        t, dt = numbers.t.clone(), numbers.dt.clone()

        def call(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            return self.f((), t, u).clone()

        def measure(x: torch.Tensor) -> torch.Tensor:
            norm: torch.Tensor = torch.linalg.vector_norm(x / (u0.abs() * numbers.reltol + numbers.abstol))
            return norm / numbers.root.to(T)

        k1 = call(t, u0)
        if steering.automatic:
            dt = first_step(call, t, numbers.t_end, numbers.dtmax, numbers.order, measure, u0, k1)

        def apart(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            naccept, nreject, t, dt = at[:4].unbind()
            return naccept, nreject, t.to(T), dt.to(T)

        def goes_on(at, u, k1, record, *kept):  # type: ignore[no-untyped-def]
            numbers = LoopNumbers(of_method, of_call, T, steering)
            naccept, nreject, t, dt = apart(at)
            _, tried, _ = numbers.next_size(t, dt)
            moves = (t + tried != t) & dt.isfinite()
            return (naccept < STEPS) & (naccept + nreject < numbers.left) & (t != numbers.t_end) & moves

        def step(at, u, k1, record, *kept):  # type: ignore[no-untyped-def]
            numbers = LoopNumbers(of_method, of_call, T, steering)
            naccept, nreject, t, dt = apart(at)
            proposed, tried, lands = numbers.next_size(t, dt)
            if not self.fsal:
                k1 = call(t, u)
            norm, u_new, last, stages = self.attempted(numbers, t, tried, u, k1)
            error = (norm.double() / numbers.root).to(T)
            first = numbers.first & (naccept == 0)
            accepted, dt, memory = numbers.control.propose(tried, proposed, error, at[4:], first)
            here = (torch.arange(STEPS, device=u.device) == naccept) & accepted
            record = torch.where(here.unsqueeze(1), together(t, tried, error), record)
            t_next = torch.where(lands, numbers.t_end, t + tried)
            if keeping:
                kept = torch.where(here.reshape(-1, *[1] * u.dim()), u, kept[0]), *kept[1:]
            if saving:
                outputs = Outputs(of_output, times, t, tried, t_next, self.unit(tried.double()))
                at_end, inside = (x.reshape(-1, *[1] * u.dim()) for x in (outputs.at_end, outputs.inside))
                passed = torch.where(at_end, u_new, outputs.of(u, stages))
                kept = *kept[:-1], torch.where((at_end | inside) & accepted, passed, kept[-1])
            counts = naccept + accepted, nreject + ~accepted
            at = together(*(x.double() for x in (*counts, torch.where(accepted, t_next, t), dt, *memory)))
            u = torch.where(accepted, u_new, u)
            k1 = torch.where(accepted, last, k1) if self.fsal else k1
            return at, u, k1, record, *kept

        at = torch.cat((torch.stack((torch.zeros_like(t), torch.zeros_like(t), t, dt)), numbers.memory))
        kept = [u0.new_zeros(n, *u0.shape) for n in [STEPS] * keeping + [len(times)] * saving]
        start = (at, u0.clone(), k1, u0.new_zeros(STEPS, 3), *kept)
        at, u, _, record, *kept = while_loop(goes_on, step, start)  # type: ignore[no-untyped-call]
        told = torch.cat((at[:4], u.double().sum().reshape(1), at[4:], record.double().reshape(-1)))
        return told, u, u.clone(), *kept
