"""What the time loop and the adjoints ask of a method, whatever its family."""

from collections.abc import Sequence
from typing import Protocol

import torch

from pylocalreg.engines.base import Gradient, Problem, Quantity, StepAsked, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.controller import Constants
from pylocalreg.engines.torch_engine.gradient_sum import GradientSum
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide

Record = tuple[torch.Tensor, ...]
"""What dense output needs of a step beside the state it starts from."""


class Stepper(Protocol):
    """The steps of one solve. Every call speaks of the step last attempted."""

    uncounted: int
    """Calls of f that the stack's nf leaves out: those for dense output alone, say."""

    def attempt(
        self, t: float, u: torch.Tensor, dt: float, spare: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        """The state at t + dt and EEst (NaN where the method has none).

        ``spare`` is a tensor that nobody needs, which the state may be written into.
        """

    def accept(self) -> None:
        """The step is accepted: the next attempt starts from its end."""

    def reject(self) -> None:
        """The step is rejected: the next attempt starts from the same state."""

    def cross(self) -> None:
        """The step last accepted ended at a tstop, where the dynamics may jump: the next attempt evaluates
        them anew on the other side.
        """

    def record(self) -> Record:
        """What dense output needs."""

    def memory(self) -> object:
        """What the method needs beside the state to take the step again; None for one-step methods."""

    def interpolate(self, time: float) -> torch.Tensor:
        """The state at a time inside the step."""

    def stiffness(self) -> float:
        """The stiffness estimate."""


class Replay(Protocol):
    """The accepted steps of a trajectory taken again and reversed, the last one first."""

    grad_params: GradientSum

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        """The cotangent of the state before step ``index``, ``u``, from that of the state after it.

        Adds the gradients by parameters. ``adjoint`` None is zero, and may be overwritten. ``inside`` are
        (time, cotangent of u(time)) of times between the step's ends.
        """

    def reverse_run(
        self,
        first: int,
        stop: int,
        adjoint: torch.Tensor | None,
        outputs: Sequence[tuple[float, torch.Tensor]],
    ) -> torch.Tensor | None:
        """As `reverse`, of the steps from ``first`` up to that before ``stop`` together, where a method has a
        way to do so; else None. ``outputs`` are (time, cotangent of u(time)) of times that these steps pass,
        their ends among them.
        """
        return None

    def pull_back_estimate(self, step: StepCotangent, u: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        """Add the gradients of one step's estimate by parameters; gives those by the states it depends on,
        as (time, cotangent of u(time)): none where the step holds them constant.
        """


class Retake(Protocol):
    """The accepted steps of a trajectory taken again in one autograd graph, the first one first.

    Every call speaks of the step last taken.
    """

    def take(self, index: int, u: torch.Tensor) -> torch.Tensor:
        """The state after step ``index``, which starts from ``u``, the end of the step before."""

    def inside(self, time: float) -> torch.Tensor:
        """The state at a time between the step's ends, by dense output."""

    def estimate(self, asked: StepAsked) -> torch.Tensor:
        """R or S of the step, which is that of index ``asked.index``."""


class Method(Protocol):
    """A method by the stack's name."""

    name: str
    estimates: frozenset[Quantity]
    """What the method estimates of its steps. One without ``"error"`` can not choose its steps."""
    one_step: bool
    """Whether a step depends on nothing but the state it starts from."""
    takes_jacobian: bool
    """Whether its steps solve linear systems with the Jacobian of the dynamics."""

    @property
    def order(self) -> float:
        """Order of the solution carried on, as the automatic first step and the controller take it."""

    @property
    def adaptive_order(self) -> float:
        """The order that the stack's I and PID controllers take the error estimate to be of: it goes with the
        power of dt above.
        """

    def constants(self, beta2: float | None) -> Constants:
        """The step size controller's own constants; ``beta2`` is given where ``beta1`` follows from it."""

    def stepper(self, f: RightHandSide, u0: torch.Tensor, problem: Problem) -> Stepper:
        """A fresh run of steps from ``u0`` at the start of the problem's span."""

    def dense_output(self, t: float, u: torch.Tensor, dt: float, record: Record, time: float) -> torch.Tensor:
        """u(time) inside the step of size ``dt`` from (t, u)."""

    def replay(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> Replay:
        """For reversing the trajectory's steps."""

    def retake(self, f: RightHandSide, problem: Problem, trajectory: Trajectory) -> Retake:
        """For derivatives of the trajectory's steps of every order."""

    def estimate(
        self,
        f: RightHandSide,
        quantity: Quantity,
        t: float,
        u: torch.Tensor,
        dt: float,
        problem: Problem,
        gradient: Gradient,
    ) -> torch.Tensor:
        """The estimate of one step from (t, u), built with autograd when gradients are enabled."""
