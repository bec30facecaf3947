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
from pylocalreg.engines.torch_engine.explicit_rk.kept import keeping_attempt
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.tensor_step import TensorStep, TensorSums
from pylocalreg.engines.torch_engine.functional import NotFunctionalError, Tensors, functional
from pylocalreg.engines.torch_engine.inductor import AcrossSolves, InOneSolve, fused
from pylocalreg.engines.torch_engine.kept_buffers import kept_buffers
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau

GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CudaGraph}
"""By the type of the device where steps are recorded and not compiled."""

RECORDINGS = 8
"""Of the same function of the same shapes: where it takes more, it takes one a solve."""

WHAT = {
    "attempt": "steps",
    "reverse": "the adjoint of steps",
    "reverse_estimated": "the adjoint of steps",
    "estimate": "the estimate of steps",
}


class Function:
    """A method of `TensorStep`, or of its sums, that is given ``first``, the ``params`` as they are, and
    tensors like those of its first call. What is called ``once`` a solve is not looked at in every solve, as
    far as the dynamics are known.
    """

    def __init__(
        self,
        steps: CompiledSteps,
        step: TensorSums,
        method: str,
        *first: int,
        params: Tensors | None = None,
        once: bool = False,
    ) -> None:
        self.steps, self.step, self.method, self.first, self.once = steps, step, method, first, once
        self.params = () if params is None else (params,)
        name = step.tableau.name
        self.what = f"{WHAT.get(method, 'sums')} of {name}"
        self.refused = steps.refused(self.what)
        hooks = step.f.hooks if isinstance(step, TensorStep) else ()
        self.made_for: tuple[Hashable, ...] = (method, first, name, hooks)
        self.key: tuple[Hashable, ...] = self.made_for
        self.recorded: Captured | None = None
        self.compiled: Callable[..., Tensors] | None = None

    def __call__(self, *tensors: torch.Tensor) -> Tensors | None:
        """What the method gives, good until the next call; None where it can not be made fast."""
        if self.refused:
            return None
        try:
            return self._run(tensors)
        except Exception as error:  # whatever a compiler finds; dynamics' own errors come again uncompiled
            self.give_up(error)
            return None

    def give_up(self, error: Exception | str) -> None:
        self.refused = True
        self.steps.refuse(self.what, error)

    def _run(self, tensors: Tensors) -> Tensors:
        if self.compiled is not None:
            return self.compiled(*tensors)
        if self.recorded is not None:
            return self.recorded(*tensors)
        graph = GRAPHS.get(tensors[1].device.type)
        if graph is None:
            self.compiled = self._fused(tensors)
            return self.compiled(*tensors)
        self.recorded = self._recorded(tensors, graph)
        return self.recorded(*tensors)

    def _fused(self, tensors: Tensors) -> Callable[..., Tensors]:
        held = self.step, *self.params
        known = self.step.f.known if self.once and isinstance(self.step, TensorStep) else None
        if known is not None:
            shapes = tuple((x.shape, x.stride(), x.dtype) for x in tensors)
            across = self.steps.get(
                (*self.key, "across"), lambda: AcrossSolves(fused(self.method, *self.first))
            )
            return partial(across, (known, shapes), held)
        modules = self.step.f.module.modules() if isinstance(self.step, TensorStep) else ()
        function = self.steps.get(self.key, lambda: fused(self.method, *self.first))
        return InOneSolve(function, *held, modules=modules)

    def _recorded(self, tensors: Tensors, graph: Callable[[torch.device], Graph]) -> Captured:
        assert isinstance(self.step, TensorStep)
        numbers, u, *_ = tensors
        f = self.step.f
        like = tuple(u.shape), u.dtype, u.device, threading.get_ident()
        wanted = f.names if self.params else ()
        with kept_buffers(f.module), torch.set_grad_enabled(bool(self.params)):  # as it will be called
            self.key = *self.made_for, like, wanted, f.reads(numbers[0].to(u.device), u)

        def record() -> Captured:
            if self.steps.made((*self.made_for, like)) > RECORDINGS:
                raise NotFunctionalError("the dynamics read other memory in every solve")
            examples = (numbers.to(u.device), *tensors[1:])
            run = partial(getattr(self.step, self.method), *self.first, *self.params)
            with kept_buffers(f.module):
                return Captured(run, examples, graph(u.device))

        return self.steps.get(self.key, record)


def tensor_step(
    steps: CompiledSteps, f: RightHandSide, tableau: Tableau, problem: Problem
) -> TensorStep | None:
    """Steps as a function of tensors; None, and a warning, where the dynamics are none."""
    what = f"dynamics with {tableau.name}"
    try:
        return None if steps.refused(what) else TensorStep(functional(f.f, problem.params), tableau)
    except NotFunctionalError as error:
        steps.refuse(what, error)
        return None


def attempts(f: RightHandSide, tableau: Tableau, u0: torch.Tensor, problem: Problem) -> Attempt:
    """For the steps of one solve from ``u0``."""
    steps = problem.compiled
    if steps is None:
        eager = keeping_attempt if problem.keep_stages else EagerAttempt
        return eager(f, tableau, u0, problem)
    step = tensor_step(steps, f, tableau, problem)
    if step is not None:
        return CompiledAttempt(steps, step, f, problem)
    return _sums_alone(steps, f, tableau, u0, problem)


def _sums_alone(
    steps: CompiledSteps, f: RightHandSide, tableau: Tableau, u: torch.Tensor, problem: Problem
) -> Attempt:
    if u.device.type in GRAPHS:  # whose launches the dynamics' outnumber
        return EagerAttempt(f, tableau, u, problem)
    return SumsAttempt(steps, f, tableau, problem)


class CompiledAttempt(Attempt):
    """One call of a compiled function, or one replay of a CUDA graph, a step."""

    def __init__(self, steps: CompiledSteps, step: TensorStep, f: RightHandSide, problem: Problem) -> None:
        self.steps, self.step, self.f, self.problem = steps, step, f, problem
        self.function = Function(steps, step, "attempt")
        self.other: Attempt | None = None

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        if self.other is None:
            given = self.function(self.step.numbers_of(t, dt, self.problem, self.f.f, u.dtype), u, k1)
            if given is not None:
                return self._read(given, u, k1, spare)
            self.other = _sums_alone(self.steps, self.f, self.step.tableau, u, self.problem)
        return self.other(t, u, dt, k1, spare)

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
        if self.other is not None:
            self.other.advance()

    def lasting(self, ks: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(ks if self.function.recorded is None else (k.clone() for k in ks))


class SumsAttempt(Attempt):
    """The dynamics as they are, and the sums between them compiled."""

    def __init__(self, steps: CompiledSteps, f: RightHandSide, tableau: Tableau, problem: Problem) -> None:
        self.f, self.tableau, self.problem = f, tableau, problem
        self.sums = sums = TensorSums(tableau)
        self.stages = [Function(steps, sums, "stage", i + 1) for i in range(len(tableau.inner_rows))]
        self.solution, self.norm = Function(steps, sums, "solution"), Function(steps, sums, "norm")
        self.eager: EagerAttempt | None = None

    def __call__(
        self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor, spare: torch.Tensor | None
    ) -> Attempted:
        if self.eager is None:
            attempted = self._attempted(t, u, dt, k1)
            if attempted is not None:
                return attempted
            self.eager = EagerAttempt(self.f, self.tableau, u, self.problem)
        return self.eager(t, u, dt, k1, spare)

    def _attempted(self, t: float, u: torch.Tensor, dt: float, k1: torch.Tensor) -> Attempted | None:
        """None where no sum can be compiled."""
        f, ks = self.f, [k1]
        numbers = self.sums.numbers_of(t, dt, self.problem, f.f, u.dtype)
        for (c, _), function in zip(self.tableau.inner_rows, self.stages, strict=True):
            stage = function(numbers, u, *ks)
            if stage is None:
                return None
            ks.append(f.owned(t + c * dt, *stage))
        solution = self.solution(numbers, u, *ks)
        if solution is None:
            return None
        (u_new,) = solution
        if self.tableau.fsal:
            ks.append(f.owned(t + dt, u_new))
        norm = self.norm(numbers, u, u_new, *ks)
        return None if norm is None else (u_new, ks, float(norm[0]) / math.sqrt(u.numel()))

    def advance(self) -> None:
        if self.eager is not None:
            self.eager.advance()


class CompiledReplay(ExplicitRKReplay):
    """Steps are reversed by one call each; those whose dense output has cotangents as they are."""

    def __init__(
        self,
        steps: CompiledSteps,
        step: TensorStep,
        f: RightHandSide,
        problem: Problem,
        trajectory: Trajectory,
    ) -> None:
        super().__init__(f, step.tableau, problem, trajectory)
        self.steps, self.step = steps, step
        self._functions: dict[tuple[bool, ...], Function] = {}

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        if adjoint is not None and not inside and (estimate is None or estimate.quantity == "error"):
            by_u = self._reversed(index, u, adjoint, estimate)
            if by_u is not None:
                return by_u
        return super().reverse(index, u, adjoint, inside, estimate)

    def _reversed(
        self, index: int, u: torch.Tensor, adjoint: torch.Tensor, estimate: StepCotangent | None
    ) -> torch.Tensor | None:
        """By a function made fast, or None where there is none."""
        flags = () if estimate is None else (estimate.through_state, estimate.gradient == "frozen")
        if flags not in self._functions:
            method, own = "reverse_estimated" if flags else "reverse", self.step.f.own
            self._functions[flags] = Function(
                self.steps, self.step, method, *flags, params=own, once=bool(flags)
            )
        function = self._functions[flags]
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        numbers = self.step.numbers_of(t, dt, self.problem, self.f.f, u.dtype)
        tensors = [numbers, u, adjoint]
        if estimate is not None:
            tensors.append(estimate.cotangent * abs(dt))
        given = function(*tensors)
        if given is None:
            return None

        def compared() -> frozenset[int] | None:
            """Which parameters the step depends on; None where what was given is not the step's adjoint: a
            substitution of parameters that the dynamics evade would be zeros without a word.
            """
            with kept_buffers(self.step.f.module):
                # an estimate's own gradient is known to few digits
                probed = function(*(tensors[:3] + [torch.zeros_like(x) for x in tensors[3:]]))
                assert probed is not None
                plain = ExplicitRKReplay(self.f, self.tableau, self.problem, self.trajectory)
                by_u = plain.reverse(index, u, adjoint.clone(), (), None)
                right = [by_u, *plain.grad_params.tensors]
                if not equal_but_for_rounding(probed, right):
                    function.give_up("what it gives is not the adjoint of a plain step")
                    return None
                function(*tensors)  # which writes what was given where it was
            return frozenset(i for i, gradient in enumerate(right[1:]) if gradient is not None)

        used = self.steps.get((*function.key, "used", self.step.f.names), compared)
        if used is None:
            return None
        by_u, *by_params = given
        self.grad_params.add([x if i in used else None for i, x in enumerate(by_params)])
        return by_u if function.recorded is None else by_u.clone()


def equal_but_for_rounding(given: Tensors, right: Sequence[torch.Tensor | None]) -> bool:
    """A gradient that a compiled function gave, and the plain one."""
    pairs = [(a, b) for a, b in zip(given, right, strict=True) if b is not None]
    sizes = torch.stack([torch.linalg.vector_norm(b) for _, b in pairs])
    differences = torch.stack([torch.linalg.vector_norm(a - b) for a, b in pairs])
    rounding = 100 * torch.finfo(sizes.dtype).eps * sizes.max()
    return bool(((differences <= 1e-2 * sizes + rounding) | ~sizes.isfinite()).all())
