"""A solve in pieces, each from one event to the next; without events, in one."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
import torch

from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Calls, Problem, Trajectory, Watch
from pylocalreg.events import Events, EventWatch, happen
from pylocalreg.moments import from_time
from pylocalreg.solution import Occurrence, Stats, Steps


@dataclass
class Piece:
    """A solve that was run: its states at ``times``, a regularizer's value, and the calls only that took."""

    solve: Solve
    states: list[torch.Tensor]
    times: Sequence[float]
    value: torch.Tensor | None = None
    calls: Calls = field(default_factory=Calls)

    @property
    def end(self) -> float:
        ended = self.solve.trajectory.ended
        return self.solve.problem.tspan[1] if ended is None else ended

    def stats(self) -> Stats:
        return self.solve.trajectory.stats(self.calls)

    def steps(self) -> Steps:
        """The steps as they were taken: an event cuts the last one short."""
        taken = self.solve.trajectory
        if taken.ended is None:
            return taken.steps()
        return Steps.of(taken.t, [*taken.dt[:-1], self.end - taken.t[-1]], taken.EEst)

    def contains(self, t: float) -> bool:
        start = self.solve.problem.tspan[0]
        return min(start, self.end) <= t <= max(start, self.end)


Run = Callable[[Problem, torch.Tensor, Sequence[float], Watch | None], Piece]


@dataclass
class Solved:
    """All pieces, the asked states that were reached, by ``times``, and the events.

    ``ended`` says that an event ended the solve; the last state is then the one there, after its affect,
    asked for or not.
    """

    pieces: list[Piece] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    occurrences: list[Occurrence] = field(default_factory=list)
    ended: bool = False

    @property
    def regularized(self) -> list[tuple[torch.Tensor, Trajectory]]:
        """Each piece's value and trajectory."""
        return [(p.value, p.solve.trajectory) for p in self.pieces if p.value is not None]

    @property
    def stats(self) -> Stats:
        return reduce(_sum, (piece.stats() for piece in self.pieces))

    @property
    def steps(self) -> Steps:
        every = [piece.steps() for piece in self.pieces]
        if len(every) == 1:
            return every[0]
        t, dt, EEst = (np.concatenate([getattr(s, name) for s in every]) for name in ("t", "dt", "EEst"))
        return Steps.of(t, dt, EEst)

    def piece_at(self, t: float) -> Piece | None:
        """The first piece that contains the time: at an event, the one before."""
        return next((piece for piece in self.pieces if piece.contains(t)), None)


def solve_in_pieces(
    problem: Problem,
    u0: torch.Tensor,
    times: Sequence[float],
    run: Run,
    events: Events | None = None,
) -> Solved:
    """``run`` solves a piece.

    Raises:
        StepLimitError: the pieces together took more steps than ``problem.maxiters``.
    """
    solved = Solved()
    if events is None:
        piece = run(problem, u0, times, None)
        solved.pieces, solved.states, solved.times = [piece], piece.states, list(piece.times)
        return solved
    end, rest, after, taken = problem.tspan[1], list(times), None, 0
    while True:
        watch = EventWatch(events, u0.dtype, after)
        piece = run(problem, u0, rest, watch)
        solved.pieces.append(piece)
        ended = piece.solve.trajectory.ended
        reached = len(piece.times) - (ended is not None and ended not in rest)
        solved.states += piece.states[:reached]
        solved.times += piece.times[:reached]
        if ended is None:
            return solved
        rest, after = rest[reached:], watch.happened
        occurrence, u0 = happen(events, after, piece.states[-1], ended, piece.solve.problem)
        solved.occurrences.append(occurrence)
        if events[after].terminate or ended == end:
            solved.ended = True
            solved.states = [*(u for u, t in zip(solved.states, solved.times, strict=True) if t != ended), u0]
            solved.times = [*(t for t in solved.times if t != ended), ended]
            return solved
        taken += piece.solve.trajectory.naccept + piece.solve.trajectory.nreject
        problem = dataclasses.replace(
            problem,
            tspan=(ended, end),
            dt=piece.solve.trajectory.proposed_dt if problem.adaptive else problem.dt,
            maxiters=max(problem.maxiters - taken, 0),
        )
        if occurrence.t.requires_grad:
            u0 = from_time(u0, occurrence.t, problem)


def _sum(a: Stats, b: Stats) -> Stats:
    return Stats(*map(add, a, b))
