"""Steps that a compiler fuses, or a CUDA graph replays, and steps as they are where neither is."""

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch

from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.captured import Captured, CudaGraph, Graph
from pylocalreg.engines.torch_engine.explicit_rk.attempt import Attempt, Attempted, EagerAttempt
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.tensor_step import TensorStep
from pylocalreg.engines.torch_engine.functional import NotFunctionalError, Tensors, functional
from pylocalreg.engines.torch_engine.inductor import fused
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau

GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CudaGraph}
"""By the type of the device, where steps are recorded in the place of being compiled."""


class _Function:
    """A method of `TensorStep` made fast for tensors like the first ones it is called with."""

    def __init__(
        self, steps: CompiledSteps, f: RightHandSide, tableau: Tableau, problem: Problem, method: str
    ) -> None:
        self.steps, self.method, self.name = steps, method, tableau.name
        self.step: TensorStep | None = None
        self.what = f"{'steps' if method == 'attempt' else 'the adjoint of steps'} of {tableau.name}"
        self.recorded: Captured | None = None
        self.params = problem.params
        self.key: tuple[Hashable, ...] = ()
        if steps.refused(self.what):
            return
        try:
            self.step = TensorStep(functional(f.f, problem.params), tableau)
        except NotFunctionalError as error:
            steps.refuse(self.what, error)

    def __call__(self, *tensors: torch.Tensor) -> Tensors | None:
        """What the method gives, good until the next call; None where it can not be made fast."""
        if self.step is None:
            return None
        try:
            return self._run(self.step, tensors)
        except Exception as error:  # whatever a compiler finds; dynamics' own errors come again uncompiled
            self.give_up(error)
            return None

    def give_up(self, error: Exception | str) -> None:
        self.step = None
        self.steps.refuse(self.what, error)

    def _run(self, step: TensorStep, tensors: Tensors) -> Tensors:
        graph = GRAPHS.get(tensors[1].device.type)
        params = self.params if self.method == "reverse" else ()
        if graph is None:
            self.key = self.method, self.name
            compiled = self.steps.get(self.key, lambda: fused(self.method))
            return compiled(step, params, *tensors)
        if self.recorded is None:
            self.recorded = self._recorded(step, params, tensors, graph)
        return self.recorded(*tensors)

    def _recorded(
        self, step: TensorStep, params: Tensors, tensors: Tensors, graph: Callable[[torch.device], Graph]
    ) -> Captured:
        numbers, u, *_ = tensors
        if any(True for _ in step.f.module.buffers()):
            raise NotFunctionalError("the dynamics have buffers, which a CUDA graph would write to")
        like = tuple(u.shape), u.dtype, u.device, threading.get_ident()
        self.key = self.method, self.name, like, step.f.reads(numbers[0].to(u.device), u)

        def record() -> Captured:
            examples = (numbers.to(u.device), *tensors[1:])
            return Captured(partial(getattr(step, self.method), params), examples, graph(u.device))

        return self.steps.get(self.key, record)


def attempts(f: RightHandSide, tableau: Tableau, u0: torch.Tensor, problem: Problem) -> Attempt:
    """For the steps of one solve from ``u0``."""
    if problem.compiled is None:
        return EagerAttempt(f, tableau, u0, problem)
    return CompiledAttempt(problem.compiled, f, tableau, problem)


class CompiledAttempt:
    """One call of a compiled function, or one replay of a CUDA graph, a step."""

    def __init__(self, steps: CompiledSteps, f: RightHandSide, tableau: Tableau, problem: Problem) -> None:
        self.f, self.tableau, self.problem = f, tableau, problem
        self.function = _Function(steps, f, tableau, problem, "attempt")
        self.eager: EagerAttempt | None = None

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        step = self.function.step
        if step is not None and self.eager is None:
            numbers = step.numbers_of(t, dt, self.problem, self.f.f, u.dtype)
            given = self.function(numbers, u, k1)
            if given is not None:
                return self._read(given, u, k1, spare)
        if self.eager is None:
            self.eager = EagerAttempt(self.f, self.tableau, u, self.problem)
        return self.eager(t, u, dt, k1, spare)

    def _read(
        self, given: Tensors, u: torch.Tensor, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        norm, u_new, *ks = given
        self.f.nfe += len(ks)
        recorded = self.function.recorded
        if recorded is not None:
            u_new = u_new.clone() if spare is None else spare.copy_(u_new)
            k1 = recorded.inputs[2]  # what was given may be an output, which the next call overwrites
        return u_new, [k1, *ks], float(norm) / math.sqrt(u.numel())

    def advance(self) -> None:
        if self.eager is not None:
            self.eager.advance()

    def lasting(self, ks: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(ks if self.function.recorded is None else (k.clone() for k in ks))


def replay(f: RightHandSide, tableau: Tableau, problem: Problem, trajectory: Trajectory) -> ExplicitRKReplay:
    """For reversing the trajectory's steps."""
    if problem.compiled is None:
        return ExplicitRKReplay(f, tableau, problem, trajectory)
    return CompiledReplay(problem.compiled, f, tableau, problem, trajectory)


class CompiledReplay(ExplicitRKReplay):
    """Steps that end in one cotangent are reversed by one call; those with more to them as they are."""

    def __init__(
        self,
        steps: CompiledSteps,
        f: RightHandSide,
        tableau: Tableau,
        problem: Problem,
        trajectory: Trajectory,
    ) -> None:
        super().__init__(f, tableau, problem, trajectory)
        self.steps, self.function = steps, _Function(steps, f, tableau, problem, "reverse")

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        step = self.function.step
        if step is not None and adjoint is not None and not inside and estimate is None:
            t, dt = self.trajectory.t[index], self.trajectory.dt[index]
            given = self.function(step.numbers_of(t, dt, self.problem, self.f.f, u.dtype), u, adjoint)
            used = None if given is None else self._used(index, u, adjoint, given)
            if given is not None and used is not None:
                by_u, *by_params = given
                self.grad_params.add([x if i in used else None for i, x in enumerate(by_params)])
                return by_u.clone() if self.function.recorded is not None else by_u
        return super().reverse(index, u, adjoint, inside, estimate)

    def _used(self, index: int, u: torch.Tensor, adjoint: torch.Tensor, given: Tensors) -> frozenset[int] | None:
        """Which parameters the step depends on; None where what was given is not the step's adjoint.

        A function is held against the step as it is once, when it is new: a substitution of parameters that
        the dynamics evade would be zeros without a word.
        """

        def compared() -> frozenset[int] | None:
            right = ExplicitRKReplay(self.f, self.tableau, self.problem, self.trajectory)
            by_u = right.reverse(index, u, adjoint.clone(), (), None)
            pairs = list(zip(given, (by_u, *right.grad_params.tensors), strict=True))
            if not all(_close(a, b) for a, b in pairs if b is not None):
                self.function.give_up("what it gives is not the adjoint of a plain step")
                return None
            return frozenset(i for i, (_, b) in enumerate(pairs[1:]) if b is not None)

        return self.steps.get((*self.function.key, "used"), compared)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding."""
    difference, size = torch.linalg.vector_norm(a - b), torch.linalg.vector_norm(b)
    return bool((difference <= 1e-2 * size) | ~size.isfinite())
