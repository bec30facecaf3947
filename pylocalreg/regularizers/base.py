"""What every regularizer is: a way to run a solve that gives a value beside the states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch

from pylocalreg.engines.autograd import Solve
from pylocalreg.engines.base import Adjoint, Calls, Engine, Trajectory
from pylocalreg.errors import OptionError


@dataclass(frozen=True)
class Regularized:
    """A solve that was run: its states, at which times, the regularizer's value (a scalar tensor), and the
    calls of the dynamics that only the value took.
    """

    states: list[torch.Tensor]
    times: Sequence[float]
    value: torch.Tensor
    calls: Calls


class Regularizer(Protocol):
    """A regularizer by itself knows nothing of its weight in the loss."""

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        """Raise `OptionError` by name for what it can not do with these, before anything starts."""

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """Run ``solve`` once; what is asked of it may be changed first."""


class Joining(Protocol):
    """A regularizer of solves that events divide into pieces."""

    def join(self, pieces: Sequence[tuple[torch.Tensor, Trajectory]]) -> torch.Tensor:
        """The value of the whole from each piece's own, and its trajectory."""


def joined(regularizer: Regularizer, pieces: Sequence[tuple[torch.Tensor, Trajectory]]) -> torch.Tensor:
    """The regularizer's value of a solve in pieces."""
    if len(pieces) == 1:
        return pieces[0][0]
    return cast(Joining, regularizer).join(pieces)


def check_joining(regularizer: Regularizer) -> None:
    """Raise `OptionError` for a regularizer that has no value of a solve in pieces."""
    if not hasattr(regularizer, "join"):
        raise OptionError(
            f"{type(regularizer).__name__} with events: it has no value of a solve that events divide; take "
            "LocalRegularizer or GlobalRegularizer"
        )


def choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `OptionError` where ``value`` is none of the choices."""
    if value not in choices:
        raise OptionError(f"{name} = {value!r} does not exist: choose one of {choices}")


def check_regularizer(regularizer: object) -> None:
    """Raise `OptionError` for what is none: a name, say, or a class in the place of one made of it."""
    if isinstance(regularizer, type) or not all(hasattr(regularizer, name) for name in ("check", "solve")):
        raise OptionError(
            f"regularizer = {regularizer!r} is none: give one as LocalRegularizer('biased'), "
            "GlobalRegularizer(), STEER(0.1), TayNODE() or RNODE()"
        )


def check_generator(generator: torch.Generator | None) -> None:
    """Raise `OptionError` for a generator on another device than the CPU, where the draws are made."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise OptionError(
            f"generator is a {type(generator).__name__}: give a torch.Generator, as "
            "torch.Generator().manual_seed(0), or None"
        )
    if generator.device.type != "cpu":
        raise OptionError(f"draws are made on the CPU: take torch.Generator(), not one on {generator.device}")


def draw(generator: torch.Generator | None) -> float:
    """A number uniform in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64, device="cpu"))


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed for other draws."""
    return int(torch.randint(2**62, (), generator=generator, device="cpu"))
