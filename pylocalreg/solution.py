"""What a solve gives back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import register_pytree_node

from pylocalreg.brownian import BrownianPath
from pylocalreg.errors import OptionError

Column = Sequence[float] | npt.NDArray[np.float64]


class Stats(NamedTuple):
    """Counts of one solve.

    Attributes:
        nfe: calls of the dynamics made in the forward pass, every one of them: those of the regularizer and
            of an interpolant's own stages (Vern7 at times between two steps, or where its steps' dense output
            is kept) included. A stiff solver's derivatives count as in the stack: df/dt one call, df/du one
            for each 12 columns; a rejected step's are kept.
        naccept: accepted steps.
        nreject: rejected steps.
        nf: the stack's own count of the solve, ``sol.stats.nf``, for comparisons with it. It leaves out the
            stages that only an interpolant needs, VCAB3's first call, and the slope on the far side of a
            tstop. Of an SDE, whose calls the stack does not count, the drift's.
        nfe_regularizer: calls made only for the regularizer.
        nfe_diffusion, nfe_diffusion_regularizer: the same of an SDE's diffusion; ``nfe`` counts its drift.
    """

    nfe: int
    naccept: int
    nreject: int
    nf: int
    nfe_regularizer: int = 0
    nfe_diffusion: int = 0
    nfe_diffusion_regularizer: int = 0


@dataclass(frozen=True)
class Steps:
    """The accepted steps, in the order taken: start ``t``, signed size ``dt`` and error estimate ``EEst``.

    All three have shape ``(naccept,)`` and dtype float64. They are made when they are first read: of a small
    solve that takes long beside the solve.

    Attributes:
        record: t, dt and EEst, one after the other.
    """

    record: bytes

    @classmethod
    def of(cls, t: Column, dt: Column, EEst: Column) -> "Steps":
        """From three columns of one length."""
        return cls(np.array((t, dt, EEst), dtype=np.float64).tobytes())

    def __len__(self) -> int:
        return len(self.record) // 24

    def __repr__(self) -> str:
        return f"Steps(t={self.t!r}, dt={self.dt!r}, EEst={self.EEst!r})"

    @property
    def t(self) -> npt.NDArray[np.float64]:
        """Where each step starts."""
        return self._columns[0]

    @property
    def dt(self) -> npt.NDArray[np.float64]:
        """How far each goes: negative in a solve backwards."""
        return self._columns[1]

    @property
    def EEst(self) -> npt.NDArray[np.float64]:
        """The error that each was accepted with, in units of the tolerance."""
        return self._columns[2]

    @cached_property
    def _columns(self) -> tuple[npt.NDArray[np.float64], ...]:
        return tuple(np.frombuffer(self.record).reshape(3, -1).copy())


@dataclass(frozen=True, eq=False)
class Occurrence:
    """One event of a solve.

    Attributes:
        t: when, a scalar tensor of the state's dtype. Differentiable.
        u: the state there, before the affect. Differentiable.
        event: which of the module's events.
    """

    t: torch.Tensor
    u: Any
    event: int


@dataclass(frozen=True, eq=False)
class Solution:
    """A solved neural differential equation.

    A pytree whose leaves are ``u`` and, where there is one, ``regularization``.

    Attributes:
        u: the state at the end of ``tspan``, of the initial state's shape; with ``saveat``, the states at
            those times, shape ``(len(saveat), *state)``. A tuple or dict of such where the initial state is
            one. Differentiable.
        t: the times of ``u``, shape ``(1,)`` or ``(len(saveat),)``, float64.
        regularization: the regularizer's value, a scalar tensor to be weighted into the loss, or None
            where the module has no regularizer or is in evaluation mode. Differentiable.
        stats: calls of the dynamics, accepted and rejected steps.
        steps: times, sizes and error estimates of the accepted steps.
        engine: the engine that solved, ``"torch"`` or ``"julia"``.
        noise: the Brownian path of an SDE's solve; another solve can be taken along it.
        events: the events that happened, in order. One that ended the solve is the last, and the last of
            ``u`` and ``t`` are those there; times of ``saveat`` beyond are left out.
    """

    u: Any
    t: npt.NDArray[np.float64]
    regularization: torch.Tensor | None
    stats: Stats
    steps: Steps
    engine: str
    interpolant: Callable[[float], Any] | None = None
    noise: BrownianPath | None = None
    events: tuple[Occurrence, ...] = ()
    sol: Callable[[], Any] | None = field(default=None, repr=False)

    @property
    def julia(self) -> Any:
        """The stack's own solution, a Julia object: an ODESolution, or of an SDE an RODESolution.

        It holds every step, and can be called at any time, where the solve kept them,
        ``node(u0, dense=True)``; else the states at the start and the end.

        Raises:
            OptionError: another engine solved, or several solves were made: between events, or under
                ``torch.func.vmap``.
        """
        if self.sol is None:
            raise OptionError(
                f"solution.julia: engine={self.engine!r} made no one solution of the stack's; solve with "
                "engine='julia', without events and not inside torch.func.vmap"
            )
        return self.sol()

    def __call__(self, t: float) -> Any:
        """State at any time of the span by the method's own dense output, without gradient.

        Raises:
            OptionError: the solve was not asked to keep its stages (``dense=True``).
            SaveAtError: ``t`` lies outside the time span.
        """
        if self.interpolant is None:
            raise OptionError("this solution keeps no dense output: solve with node(u0, dense=True)")
        return self.interpolant(t)


class _Rest:
    """What of a solution is no leaf. Solutions of one structure differ in it, and are of one structure."""

    def __init__(self, solution: Solution) -> None:
        self.solution, self.regularized = solution, solution.regularization is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and self.regularized == other.regularized

    def __hash__(self) -> int:
        return hash(self.regularized)


def _flatten(solution: Solution) -> tuple[list[Any], _Rest]:
    leaves = [solution.u] if solution.regularization is None else [solution.u, solution.regularization]
    return leaves, _Rest(solution)


def _unflatten(leaves: Iterable[Any], rest: _Rest) -> Solution:
    u, *regularization = leaves
    return replace(rest.solution, u=u, regularization=regularization[0] if regularization else None)


register_pytree_node(Solution, _flatten, _unflatten)
