"""Events: where a condition crosses zero, a solve ends or the state changes.

A solve with events is one of pieces, each from an event to the next. The time of an event is defined by
the condition, and has its gradient by the implicit function theorem: with c(t*, u(t*)) = 0, dt* = -dc /
(dc/dt + dc/du f).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pylocalreg.checks import check_count, check_flag
from pylocalreg.engines.base import Problem
from pylocalreg.errors import NonFiniteError, OptionError, ShapeError
from pylocalreg.moments import to_time, velocity_at
from pylocalreg.solution import Occurrence
from pylocalreg.states import Layout

Condition = Callable[[torch.Tensor, Any], torch.Tensor]
Affect = Callable[[torch.Tensor, Any], Any]

NUDGE = 1 / 100
"""Where in the first step after an event the condition's sign is taken, the stack's ``repeat_nudge``: at
the event itself it is rounding."""


class Event(torch.nn.Module):
    """What happens where ``condition(t, u)`` crosses zero; the stack's ContinuousCallback.

    Args:
        condition: of the time, a scalar tensor, and the state, as the dynamics get it; gives a tensor of
            one element.
        affect: of the same, at the event; gives the state to go on from. None leaves it as it is.
        terminate: whether the solve ends there.
        direction: 1 for crossings from below alone, -1 for those from above, 0 for both; along the solve.
        interp_points: how many times inside each step the condition is looked at, beside the step's end: two
            crossings between two of them are not seen.

    Modules among them become this one's. Gradients reach what the condition and the affect depend on,
    and pass through the event's time. The times of events are those of the dense output, to rounding;
    ``affect`` is called once an event.

    Raises:
        OptionError: an option has a value that does not exist, or the event would do nothing.
    """

    def __init__(
        self,
        condition: Condition,
        affect: Affect | None = None,
        terminate: bool = True,
        direction: int = 0,
        interp_points: int = 10,
    ) -> None:
        super().__init__()
        for name, function in (("condition", condition), ("affect", affect)):
            if not callable(function) and not (name == "affect" and function is None):
                raise OptionError(f"{name} = {function!r} is not callable: give {name}(t, u)")
        check_flag("terminate", terminate)
        if direction not in (-1, 0, 1):
            raise OptionError(f"direction = {direction!r} does not exist: choose -1, 0 or 1")
        if affect is None and not terminate:
            raise OptionError("the event does nothing: give an affect, or terminate=True")
        self.condition, self.affect, self.terminate = condition, affect, terminate
        self.direction = direction
        self.interp_points = check_count("interp_points", interp_points, most=10_000)

    def extra_repr(self) -> str:
        return f"terminate={self.terminate}, direction={self.direction}"

    def value(self, t: torch.Tensor, u: Any) -> torch.Tensor:
        """The condition, a scalar."""
        value = self.condition(t, u)
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or value.dtype.is_complex:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ShapeError(
                f"the event's condition gave {got} at t = {float(t.detach()):.6g}: it must give a real "
                "tensor of one element. Of a batch, say u.min(), or solve its samples one by one"
            )
        return value.reshape(())

    def number(self, t: float, u: torch.Tensor, unpack: Callable[[torch.Tensor], Any]) -> float:
        """The condition of the solved tensor ``u``, without a graph."""
        with torch.no_grad():
            value = float(self.value(u.new_tensor(t), unpack(u)))
        if math.isnan(value):
            raise NonFiniteError(f"the event's condition is NaN at t = {t:.6g}")
        return value


def check_events(event: Event | Sequence[Event] | None) -> list[Event]:
    """Raise `OptionError` for what is none."""
    events = [] if event is None else [event] if isinstance(event, Event) else event
    if not isinstance(events, list | tuple) or not all(isinstance(one, Event) for one in events):
        raise OptionError(f"event = {event!r}: give a plr.Event(condition, ...), or a list of them")
    return list(events)


@dataclass(frozen=True)
class Events:
    """The events of a solve, and the layout of the states that they are given."""

    events: Sequence[Event]
    layout: Layout

    def __getitem__(self, index: int) -> Event:
        return self.events[index]


def happen(
    events: Events, index: int, u: torch.Tensor, t: float, problem: Problem
) -> tuple[Occurrence, torch.Tensor]:
    """The event ``index`` at ``t``, where the solved state is ``u``, and the solved state after it.

    Raises:
        NonFiniteError: the condition only touches zero there, so that the event's time has no derivative.
        OptionError: the condition's derivative is not to be had.
    """
    event, layout = events[index], events.layout
    time = u.detach().new_tensor(t)
    value = event.value(time, layout.unpack(u))
    if torch.is_grad_enabled() and (value.requires_grad or u.requires_grad):
        rate = _rate(event, u.detach(), t, problem, layout)
        if value.requires_grad:
            time = time - (value - value.detach()) / rate
            u = to_time(u, time, t, problem)
    occurrence = Occurrence(time, layout.unpack(u), index)
    if event.affect is None:
        return occurrence, u
    after = event.affect(time, occurrence.u)
    layout.check(after, time, u, "event's affect")
    return occurrence, layout.pack(after)


def _rate(event: Event, u: torch.Tensor, t: float, problem: Problem, layout: Layout) -> torch.Tensor:
    """The condition's derivative by the time along the solution."""
    time, at = u.new_tensor(t).requires_grad_(), u.clone().requires_grad_()
    value = event.value(time, layout.unpack(at))
    if not value.requires_grad:
        raise OptionError(
            "the event's condition has no derivative by t and u, and its time no gradient: compute it by "
            "torch's functions from both, or solve under torch.no_grad()"
        )
    by_t, by_u = torch.autograd.grad(value, (time, at), allow_unused=True, materialize_grads=True)
    rate = by_t + (by_u * velocity_at(u, t, problem)).sum()
    if rate == 0 or not torch.isfinite(rate):
        raise NonFiniteError(
            f"the event's condition changes at the rate {float(rate):g} where it is zero, at t = {t:.6g}: "
            "its time has no gradient there. Give a condition that crosses zero, or solve under "
            "torch.no_grad()"
        )
    return rate


class EventWatch:
    """Looks for the first event of a piece, step by step."""

    def __init__(self, events: Events, dtype: torch.dtype, after: int | None) -> None:
        """``after`` is the event that the piece starts from, if it does."""
        self.events, self.unpack, self.after = events.events, events.layout.unpack, after
        self._scalar: type[np.floating[Any]] = np.float32 if dtype == torch.float32 else np.float64
        self.happened = -1
        self._last: list[tuple[float, float]] = []  # of each event, when its sign was last seen, and the sign

    def __call__(self, t: float, t_new: float, at: Callable[[float], torch.Tensor]) -> float | None:
        """The time at which an event ends the step from ``t`` to ``t_new``, ``at`` its dense output, if one
        does.
        """
        known: dict[float, torch.Tensor] = {}

        def state(time: float) -> torch.Tensor:
            if time not in known:
                known[time] = at(time)
            return known[time]

        roots = []
        for i, event in enumerate(self.events):

            def condition(time: float, event: Event = event) -> float:
                return event.number(time, state(time), self.unpack)

            if len(self._last) == i:
                sign = 0.0 if i == self.after else np.sign(condition(t))
                nudged = self._round(t + NUDGE * (t_new - t))
                self._last.append((t, sign) if sign else (nudged, np.sign(condition(nudged))))
            root = self._first_root(i, condition, t, t_new)
            if root is not None:
                roots.append((abs(root - t), root, i))
        if not roots:
            return None
        _, root, self.happened = min(roots)
        return root

    def _round(self, time: float) -> float:
        return float(self._scalar(time))

    def _first_root(
        self, i: int, condition: Callable[[float], float], t: float, t_new: float
    ) -> float | None:
        event = self.events[i]
        parts = event.interp_points + 1
        for j in range(1, parts + 1):
            time = t_new if j == parts else self._round(t + (t_new - t) * j / parts)
            before, last = self._last[i]
            if abs(time - t) <= abs(before - t):
                continue
            sign = np.sign(condition(time))
            if (last * sign < 0 or (sign == 0 and last != 0)) and event.direction in (0, -last):
                return crossing(condition, before, time, self._scalar)
            if sign != 0 or last == 0:
                self._last[i] = time, sign
        return None


def crossing(f: Callable[[float], float], a: float, b: float, scalar: type[np.floating[Any]]) -> float:
    """The last time before the sign of ``f`` changes from its one at ``a``, within (a, b], as ``scalar``
    holds it; or a zero.

    The Illinois variant of regula falsi, by halves where that is slow.
    """
    f_a, f_b = f(a), f(b)
    if f_b == 0:
        return b
    moved, slow = "", 0
    while True:
        middle = a + (b - a) / 2
        guess = float(scalar(middle if slow > 2 else (a * f_b - b * f_a) / (f_b - f_a)))
        if guess == a or not min(a, b) < guess < max(a, b):
            guess = float(np.nextafter(scalar(a), scalar(b)))
        if guess == b:
            guess = float(scalar(middle))
        if guess in (a, b):  # neighbours
            return a
        value, width = f(guess), abs(b - a)
        if value == 0:
            return guess
        if (value < 0) == (f_b < 0):
            b, f_b, f_a = guess, value, f_a / 2 if moved == "b" else f_a
            moved = "b"
        else:
            a, f_a, f_b = guess, value, f_b / 2 if moved == "a" else f_b
            moved = "a"
        slow = slow + 1 if abs(b - a) > width / 2 else 0
