"""A Runge-Kutta step as a function of tensors alone, for a compiler to fuse or a CUDA graph to record.

What changes from step to step, numbers too, is in tensors. The sums are written out of place, and the terms
come in the order in which `combine` adds them.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pylocalreg.compilation import is_compiling
from pylocalreg.engines.base import Dynamics, Problem
from pylocalreg.engines.torch_engine.error_norm import scaled_rms
from pylocalreg.engines.torch_engine.functional import Functional, Tensors
from pylocalreg.engines.torch_engine.one_sided import OneSided
from pylocalreg.engines.torch_engine.tableaus import Tableau
from pylocalreg.engines.torch_engine.tableaus.tableau import Row

Pullback = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


class _Layout:
    """For each stage, for the solution and for the error the places, in what `numbers_of` gives, of the
    weights of the stages that they sum.
    """

    def __init__(self, tableau: Tableau) -> None:
        stages = tableau.stages
        rows: list[Row] = [(0.0, ()), *zip(tableau.c[: stages - 1], tableau.a[: stages - 1], strict=True)]
        layout = [0.0 for _ in range(stages)]
        self.of_stage: list[dict[int, int]] = [placed(a, layout) for _, a in rows]
        self.of_solution = placed(tableau.b, layout)
        self.of_error = placed(tableau.btilde, layout)
        self.weights = np.array(layout)
        self.nodes = np.array([c for c, _ in rows])


_layout = functools.lru_cache(_Layout)


class TensorSums:
    """The sums of a method's steps; ``of_step`` is what `numbers_of` gives, one by one ``numbers``."""

    def __init__(self, tableau: Tableau) -> None:
        self.tableau, layout = tableau, _layout(tableau)
        self.of_stage, self.of_solution, self.of_error = layout.of_stage, layout.of_solution, layout.of_error
        self.weights, self.nodes = layout.weights, layout.nodes

    def numbers_of(
        self, t: float, dt: float, problem: Problem, f: Dynamics, dtype: torch.dtype
    ) -> torch.Tensor:
        """The stages' times, the weights times ``dt``, and the tolerances."""
        numbers = np.empty(len(self.weights) + 2)
        np.multiply(self.weights, dt, out=numbers[:-2])
        numbers[: len(self.nodes)] = t + self.nodes * dt
        numbers[-2:] = problem.abstol, problem.reltol
        rounded = numbers.astype(np.float32) if dtype is torch.float32 else numbers
        if isinstance(f, OneSided):
            times = rounded[: len(self.nodes)]
            times[:] = f.clamped(times)
        return torch.from_numpy(rounded)

    def stage(self, i: int, of_step: torch.Tensor, u: torch.Tensor, *ks: torch.Tensor) -> Tensors:
        """The state at which the stage of index ``i`` is evaluated."""
        return (weighted_sum(u, self.of_stage[i], ks, of_step.unbind()),)

    def solution(self, of_step: torch.Tensor, u: torch.Tensor, *ks: torch.Tensor) -> Tensors:
        """The new state."""
        return (weighted_sum(u, self.of_solution, ks, of_step.unbind()),)

    def norm(self, of_step: torch.Tensor, u: torch.Tensor, u_new: torch.Tensor, *ks: torch.Tensor) -> Tensors:
        """The square root of sum (error / scale)^2; NaN where the method has no estimate."""
        return (self._norm(of_step.unbind(), u, u_new, ks),)

    def _norm(
        self, numbers: Tensors, u: torch.Tensor, u_new: torch.Tensor, ks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        if not self.of_error:
            return u.new_full((), math.nan)
        return scaled_norm(weighted_sum(None, self.of_error, ks, numbers), u, u_new, *numbers[-2:])


class TensorStep(TensorSums):
    """A method's steps through ``f``."""

    def __init__(self, f: Functional, tableau: Tableau) -> None:
        super().__init__(tableau)
        self.f = f

    def attempt(self, of_step: torch.Tensor, u: torch.Tensor, k1: torch.Tensor) -> Tensors:
        """What `norm` gives, the new state, and the stages after the first."""
        return self.attempt_by(of_step.unbind(), u, k1)

    def attempt_by(self, numbers: Tensors, u: torch.Tensor, k1: torch.Tensor) -> Tensors:
        """As `attempt`, of ``of_step`` its ``numbers``."""
        tableau, ks = self.tableau, [k1]
        seen: set[int] = set()
        for i in range(1, tableau.stages - tableau.fsal):
            ks.append(self._owned(numbers[i], weighted_sum(u, self.of_stage[i], ks, numbers), seen))
        u_new = weighted_sum(u, self.of_solution, ks, numbers)
        if tableau.fsal:
            ks.append(self._owned(numbers[tableau.stages - 1], u_new, seen))
        return self._norm(numbers, u, u_new, ks), u_new, *ks[1:]

    def reverse(
        self, params: Tensors, of_step: torch.Tensor, u: torch.Tensor, adjoint: torch.Tensor
    ) -> Tensors:
        """The cotangents of ``u`` and of each of ``params``, from that of the new state."""
        return self.reverse_by(params, of_step.unbind(), u, adjoint)

    def reverse_by(
        self, params: Tensors, numbers: Tensors, u: torch.Tensor, adjoint: torch.Tensor
    ) -> Tensors:
        """As `reverse`, of ``of_step`` its ``numbers``."""
        ks, pullbacks = self._taken(params, numbers, u, len(self.tableau.b))
        by_stage = self._by_solution(ks, adjoint, numbers)
        return self._swept(pullbacks, by_stage, adjoint, numbers)

    def reverse_with(
        self,
        outputs: tuple[torch.Tensor, torch.Tensor, Sequence[torch.Tensor]],
        params: Tensors,
        numbers: Tensors,
        u: torch.Tensor,
        adjoint: torch.Tensor,
    ) -> Tensors:
        """As `reverse_by`, with what ``outputs`` of the step add to the cotangents of the new state, of ``u``
        and of the stages.
        """
        by_end, by_start, by_stages = outputs
        _, pullbacks = self._taken(params, numbers, u, self.tableau.stages)
        by_stage: list[torch.Tensor | None] = [*by_stages]
        adjoint = adjoint + by_end
        _add_sum(by_stage, self.of_solution, adjoint, numbers)
        return self._swept(pullbacks, by_stage, adjoint + by_start, numbers)

    def reverse_estimated(
        self,
        through_state: bool,
        frozen: bool,
        params: Tensors,
        of_step: torch.Tensor,
        u: torch.Tensor,
        adjoint: torch.Tensor,
        by_estimate: torch.Tensor,
    ) -> Tensors:
        """As `reverse`, with the cotangent of the step's EEst too; what `StepCotangent` holds constant is."""
        numbers = of_step.unbind()
        ks, pullbacks = self._taken(params, numbers, u, self.tableau.stages)
        by_stage = self._by_solution(ks, adjoint, numbers)
        joint = _none(ks) if frozen else list(by_stage)
        _, by_u = self._estimate(numbers, u, ks, by_estimate, joint)
        if frozen:
            adjoint, *by_params = self._swept(pullbacks, by_stage, adjoint, numbers)
            by_u, *more = self._swept(pullbacks, joint, by_u, numbers, first=1)
            return adjoint + by_u if through_state else adjoint, *_added(tuple(by_params), tuple(more))
        joined, *by_params = self._swept(pullbacks, joint, adjoint + by_u, numbers)
        if through_state:
            return joined, *by_params
        # of this sweep a compiler leaves out the parameters' part
        adjoint, *_ = self._swept(pullbacks, by_stage, adjoint, numbers)
        return adjoint, *by_params

    def estimate(
        self,
        frozen: bool,
        params: Tensors,
        of_step: torch.Tensor,
        u: torch.Tensor,
        by_estimate: torch.Tensor,
        by_solution: torch.Tensor,
    ) -> Tensors:
        """EEst of the step, and the cotangents of each of ``params`` from those of EEst and the new state."""
        numbers = of_step.unbind()
        ks, pullbacks = self._taken(params, numbers, u, self.tableau.stages)
        by_stage = self._by_solution(ks, by_solution, numbers)
        EEst, by_u = self._estimate(numbers, u, ks, by_estimate, by_stage)
        _, *by_params = self._swept(pullbacks, by_stage, by_u, numbers, first=int(frozen))
        return EEst, *by_params

    def _by_solution(
        self, ks: Sequence[torch.Tensor], cotangent: torch.Tensor, numbers: Tensors
    ) -> list[torch.Tensor | None]:
        """The stages' cotangents, but for what they are to each other, from that of the new state."""
        by_stage = _none(ks)
        _add_sum(by_stage, self.of_solution, cotangent, numbers)
        return by_stage

    def _estimate(
        self,
        numbers: Tensors,
        u: torch.Tensor,
        ks: Sequence[torch.Tensor],
        by_estimate: torch.Tensor,
        by_stage: list[torch.Tensor | None],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """EEst, and from its cotangent that of ``u``; adds those of the stages, but for what they are to each
        other.
        """
        error = weighted_sum(None, self.of_error, ks, numbers)
        u_new = weighted_sum(u, self.of_solution, ks, numbers)

        def of_state(error: torch.Tensor, u: torch.Tensor, u_new: torch.Tensor) -> torch.Tensor:
            return scaled_rms(error, u, u_new, numbers[-2], numbers[-1])

        EEst, pullback, *_ = torch.func.vjp(of_state, error, u, u_new)
        by_error, by_u, by_u_new = pullback(by_estimate)
        _add_sum(by_stage, self.of_error, by_error, numbers)
        _add_sum(by_stage, self.of_solution, by_u_new, numbers)
        return EEst, by_u + by_u_new

    def _taken(
        self, params: Tensors, numbers: Tensors, u: torch.Tensor, stages: int
    ) -> tuple[list[torch.Tensor], list[Pullback]]:
        """The first stages, and the pullback of each to ``params`` and the state it is evaluated at."""
        ks: list[torch.Tensor] = []
        pullbacks: list[Pullback] = []
        for i in range(stages):
            stage = weighted_sum(u, self.of_stage[i], ks, numbers) if i else u

            def at(params: Tensors, stage: torch.Tensor, t: torch.Tensor = numbers[i]) -> torch.Tensor:
                return self.f(params, t, stage)

            k, pullback, *_ = torch.func.vjp(at, params, stage)
            ks.append(k)
            pullbacks.append(pullback)
        return ks, pullbacks

    def _swept(
        self,
        pullbacks: list[Pullback],
        by_stage: list[torch.Tensor | None],
        by_u: torch.Tensor,
        numbers: Tensors,
        first: int = 0,
    ) -> Tensors:
        """``by_u`` and what the stages from ``first`` on add to it, and the cotangents of the parameters."""
        by_params: Tensors | None = None
        for i in reversed(range(first, len(pullbacks))):
            cotangent = by_stage[i]
            if cotangent is None:
                continue
            of_params, of_stage = pullbacks[i](cotangent)
            by_u = by_u + of_stage
            by_params = of_params if by_params is None else _added(by_params, of_params)
            _add_sum(by_stage, self.of_stage[i], of_stage, numbers)
        assert by_params is not None
        return by_u, *by_params

    def _owned(self, t: torch.Tensor, u: torch.Tensor, seen: set[int]) -> torch.Tensor:
        """A call of ``f``, copied where it may be its input's memory or that of another call."""
        k = self.f((), t, u)
        if is_compiling():
            return k.clone()  # which costs nothing where it is not needed
        memory = k.untyped_storage().data_ptr()
        if memory in seen or memory == u.untyped_storage().data_ptr():
            return k.clone()
        seen.add(memory)
        return k


def scaled_norm(
    error: torch.Tensor, u: torch.Tensor, u_new: torch.Tensor, abstol: torch.Tensor, reltol: torch.Tensor
) -> torch.Tensor:
    """The square root of sum (error / scale)^2."""
    norm: torch.Tensor = torch.linalg.vector_norm(
        error / (abstol + torch.maximum(u.abs(), u_new.abs()) * reltol)
    )
    return norm


def weighted_sum(
    u: torch.Tensor | None, places: dict[int, int], ks: Sequence[torch.Tensor], numbers: Tensors
) -> torch.Tensor:
    """``u`` and the stages by the weights at these places."""
    total = u
    for j, place in places.items():
        total = ks[j] * numbers[place] if total is None else torch.addcmul(total, ks[j], numbers[place])
    assert total is not None
    return total


def placed(weights: Sequence[float], layout: list[float]) -> dict[int, int]:
    """Put the weights that are not 0 behind what ``layout`` has: the places they get, by stage."""
    places = {}
    for j, weight in enumerate(weights):
        if weight:
            places[j] = len(layout)
            layout.append(weight)
    return places


def _add_sum(
    by_stage: list[torch.Tensor | None],
    places: dict[int, int],
    cotangent: torch.Tensor,
    numbers: Tensors,
) -> None:
    """Add to the stages' cotangents where ``cotangent`` is that of their sum with these weights."""
    for j, place in places.items():
        present = by_stage[j]
        weight = numbers[place]
        by_stage[j] = cotangent * weight if present is None else torch.addcmul(present, cotangent, weight)


def _added(total: Tensors, more: Tensors) -> Tensors:
    return tuple(a + b for a, b in zip(total, more, strict=True))


def _none(ks: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    return [None] * len(ks)
