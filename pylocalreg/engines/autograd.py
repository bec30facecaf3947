"""The autograd functions that every engine shares: solve forward without a graph, pull back on demand.

``_Solve`` solves. Its backward pass is a function of its own, ``_PullBack``, where that is differentiated or
transformed again.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from pylocalreg.engines.base import (
    Adjoint,
    Calls,
    Engine,
    Gradient,
    Keep,
    Problem,
    Quantity,
    StepAsked,
    StepCotangent,
    StepSample,
    Trajectory,
    Watch,
)
from pylocalreg.engines.real_parts import real
from pylocalreg.engines.scale import Scale, scaled, slope
from pylocalreg.errors import ChangedError, DoubleBackwardError, OptionError
from pylocalreg.observed import AsSolved, observed_in
from pylocalreg.observed.draws import Draws
from pylocalreg.observed.reached import in_forward_mode, transforming
from pylocalreg.precision import full_precision

T = TypeVar("T")
Tensors = Sequence[torch.Tensor]
Maybe = torch.Tensor | None


@dataclass(frozen=True)
class Recorded:
    """A regularizer's wish for accepted steps: the weighted sum of their estimates, on ``scale``, or their
    states.

    ``sample`` None is every step, each with weight 1. ``states`` asks for the states the sampled steps start
    from, and for no sum.
    """

    quantity: Quantity = "error"
    gradient: Gradient = "exact"
    through_state: bool = False
    sample: StepSample | None = None
    states: bool = False
    scale: Scale = "linear"

    def weights(self, trajectory: Trajectory) -> dict[int, float]:
        """The steps by index, in rising order, and their weights."""
        if self.sample is None:
            return dict.fromkeys(range(trajectory.naccept), 1.0)
        return dict(sorted(self.sample.weights.items()))


def _as_it_is(u: torch.Tensor) -> torch.Tensor:
    return u


@dataclass
class Solve:
    """One solve: what is asked, and, once it ran, its trajectory."""

    engine: Engine
    problem: Problem
    times: Sequence[float]
    adjoint: Adjoint
    keep: Keep
    recorded: Recorded | None = None
    read: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
    """The asked state from the solved one, should a regularizer have solved for more."""
    watch: Watch | None = None
    """May end the solve, within its span: ``problem`` and ``times`` are then as far as it came."""
    trajectory: Trajectory = field(default_factory=Trajectory)
    samples: "list[Solve]" = field(default_factory=list)
    """The solves of the samples, where this one is transformed by ``torch.func.vmap``."""

    def run(self, u0: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        """States at ``times``; then the sum of the recorded steps' estimates (empty where not asked for) and
        the states they start from, if asked for. Differentiable by u0 and ``problem.params``.
        """
        params = self.problem.params
        self.differentiated = transforming() or (
            torch.is_grad_enabled() and any(x.requires_grad for x in (u0, *params))
        )
        if self.differentiated or in_forward_mode():
            function = _TransformedSolve if transforming() else _Solve
            value, *states = function.apply(self, u0, *params)  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
                value, *states = self.forward(u0, params)
        ends = len(states) - len(self.times)
        return states[ends:], value, states[:ends]

    def forward(self, u0: torch.Tensor, params: Tensors) -> tuple[torch.Tensor, ...]:
        """The value, the recorded states and the outputs. ``params`` stand for the problem's own, which are
        other objects inside a function that ``torch.func`` transforms.
        """
        problem, aliases = self.problem, _others(self.problem.params, params)
        self.device = u0.device
        of_f, of_g = observed_in(problem.f), observed_in(problem.g)
        self.observed = of_f + of_g
        if self.differentiated:
            self.as_solved = AsSolved([f for f in (problem.f, problem.g) if isinstance(f, torch.nn.Module)])

        def solve(other: bool) -> Trajectory:
            asked = dataclasses.replace(problem, params=tuple(params)) if aliases else problem
            return self.engine.solve(asked, u0.detach(), self.times, self.keep, self.watch)

        draws = self._unseen_draws(u0.device)
        self.trajectory = trajectory = self.as_solved.lending(aliases, solve) if aliases else solve(False)
        if trajectory.ended is not None:
            self.times = [*self.times[: len(trajectory.outputs) - 1], trajectory.ended]
            self.problem = dataclasses.replace(problem, tspan=(problem.tspan[0], trajectory.whole_end))
        if self.observed:
            trajectory.calls += Calls(*(sum(observed.waste() for observed in side) for side in (of_f, of_g)))
        if draws is not None and draws.moved():
            raise OptionError(
                "the dynamics drew random numbers in this solve, but not at their first call: they must draw "
                "at every call, so that all can be given the same numbers, or at none"
            )
        if self.differentiated:
            self.as_solved.keep(params)
        recorded, value = self.recorded, u0.new_empty(0)
        states: list[torch.Tensor] = []
        self.weights = recorded.weights(trajectory) if recorded is not None else {}
        if recorded is not None and recorded.states:
            states = [trajectory.u[i].clone() for i in self.weights]
        elif recorded is not None:
            terms = [
                weight * scaled(recorded.scale, trajectory.estimate(recorded.quantity, i), trajectory.dt[i])
                for i, weight in self.weights.items()
            ]
            value = u0.new_full((), sum(terms))
        # an output kept by its own graph is a cycle that nothing frees
        outputs, trajectory.outputs = trajectory.outputs, []
        return value, *states, *outputs

    def _unseen_draws(self, device: torch.device) -> Draws | None:
        """To be asked after the solve: whether dynamics that seemed to draw nothing did. Another thread's
        draws can not be told from theirs.
        """
        silent = any(observed.draws is None for observed in self.observed)
        return Draws(device) if silent and threading.active_count() == 1 else None

    def pull_back(self, params: Tensors, cotangents: Sequence[Maybe]) -> tuple[torch.Tensor, list[Maybe]]:
        """Gradients by u0 and ``params`` from the cotangents of what `forward` gave."""
        self.as_solved.check()
        own = [x.detach().requires_grad_() if _has_side_effects(x) else x for x in params]
        at_times, steps = self._asked(cotangents)
        if self._scale != "linear":
            steps = [
                dataclasses.replace(step, cotangent=step.cotangent * self._slope(step)) for step in steps
            ]

        def sweep(problem: Problem) -> tuple[torch.Tensor, list[Maybe]]:
            return self.engine.pull_back(problem, self.trajectory, self.adjoint, at_times, steps)

        return self._again(own, sweep)

    def pull_back_again(
        self, u0: torch.Tensor, params: Tensors, cotangents: Sequence[Maybe], by_gradients: Sequence[Maybe]
    ) -> list[Maybe]:
        """The gradients of <by_gradients, what `pull_back` gives> by u0, ``params`` and cotangents."""
        self.as_solved.check()
        further = torch.is_grad_enabled()  # derivatives of a still higher order are wanted
        with torch.enable_grad():
            given = (u0, *params, *cotangents)
            own = [
                None if x is None else x.view_as(x) if further and x.requires_grad else _leaf(x)
                for x in given
            ]
            ends = 1 + len(params)
            start, *of_params = [x for x in own[:ends] if x is not None]
            at_times, steps = self._asked(own[ends:])

            def sweep(problem: Problem) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
                times = [time for time, _ in at_times]
                asked = [StepAsked(s.index, s.quantity, s.gradient, s.through_state) for s in steps]
                return self.engine.retake(problem, self.trajectory, self.adjoint, start, times, asked)

            states, estimates = self._again(of_params, sweep)
            terms = [(g * u).sum() for (_, g), u in zip(at_times, states, strict=True)]
            terms += [
                step.cotangent * scaled(self._scale, estimate, self.trajectory.dt[step.index])
                for step, estimate in zip(steps, estimates, strict=True)
            ]
            first = _gradients(terms, [start, *of_params], create_graph=True)
            pairs = [
                (g, by) for g, by in zip(first, by_gradients, strict=True) if g is not None and by is not None
            ]
            products = [(real(g) * real(by)).sum() for g, by in pairs]
        wanted = [x for x in own if x is not None]
        second = iter(_gradients(products, wanted, create_graph=further))
        return [None if x is None else next(second) for x in own]

    def _again(self, own: Tensors, sweep: Callable[[Problem], T]) -> T:
        """Steps taken again with ``own`` in the place of the problem's parameters, all else as it was."""
        problem, aliases = self.problem, _others(self.problem.params, own)

        def run(other: bool) -> T:
            with ExitStack() as stack:
                for observed in self.observed:
                    stack.enter_context(observed.replayed(own))
                return sweep(dataclasses.replace(problem, params=tuple(own)) if other or aliases else problem)

        with full_precision(self.device):
            try:
                return self.as_solved.lending(aliases, run, again=True)
            except RuntimeError as error:
                if "through the graph a second time" not in str(error):
                    raise
                raise ChangedError(
                    "the dynamics hold a tensor with a graph that was computed at one call and used at "
                    "others (a cache): compute it before the solve, or at every call"
                ) from error

    @property
    def _scale(self) -> Scale:
        return "linear" if self.recorded is None else self.recorded.scale

    def _slope(self, step: StepCotangent) -> float:
        estimate = self.trajectory.estimate(step.quantity, step.index)
        return slope(self._scale, estimate, self.trajectory.dt[step.index])

    def _asked(
        self, cotangents: Sequence[Maybe]
    ) -> tuple[list[tuple[float, torch.Tensor]], list[StepCotangent]]:
        """Cotangents of states by their times, in the span's order, and of steps' scaled estimates."""
        by_value, *by_states = cotangents
        recorded, weights = self.recorded, self.weights
        times = list(self.times)
        steps: list[StepCotangent] = []
        if recorded is not None and recorded.states:
            times = [*(self.trajectory.t[i] for i in weights), *times]
        elif recorded is not None and by_value is not None:
            steps = [
                StepCotangent(
                    i, by_value * weight, recorded.quantity, recorded.gradient, recorded.through_state
                )
                for i, weight in weights.items()
            ]
        at_times = [(t, g) for t, g in zip(times, by_states, strict=True) if g is not None]
        start, end = self.problem.tspan
        at_times.sort(key=lambda pair: pair[0] if end > start else -pair[0])
        return at_times, steps


def _others(held: Tensors, given: Tensors) -> dict[int, torch.Tensor]:
    """What is given for a held tensor, by its id, where that is another."""
    return {id(x): y for x, y in zip(held, given, strict=True) if x is not y}


def _has_side_effects(x: torch.Tensor) -> bool:
    """Whether a gradient by the tensor would be seen elsewhere, or refused: a step's is by an alias then."""
    return bool(x._backward_hooks) or x.retains_grad or not x.requires_grad


def _leaf(x: torch.Tensor) -> torch.Tensor:
    return x.detach().requires_grad_()


def _gradients(terms: Tensors, wanted: Tensors, create_graph: bool) -> Sequence[Maybe]:
    """Of the terms' sum; None where nothing depends on a tensor."""
    terms = [term for term in terms if term.requires_grad]
    if not terms:
        return [None] * len(wanted)
    return torch.autograd.grad(terms, wanted, create_graph=create_graph, allow_unused=True)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, u0: torch.Tensor, *params: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _set_up(ctx, solve, u0, *params)
        return solve.forward(u0, params)

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        try:
            u0, *params = ctx.saved_tensors
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise ChangedError(
                f"the initial state or a parameter was written to after the solve ({error}): its steps can "
                "not be taken again for the gradient. Call backward before"
            ) from error
        if all(cotangent is None for cotangent in cotangents):
            return None, None, *(None for _ in params)
        if torch.is_grad_enabled() or transforming():
            return None, *_PullBack.apply(ctx.solve, len(params), u0, *params, *cotangents)  # type: ignore[no-untyped-call]
        by_u0, by_params = ctx.solve.pull_back(params, cotangents)
        for i, p in enumerate(params):
            if by_params[i] is None and (p._backward_hooks or not p.is_leaf):  # hooks take a tensor
                by_params[i] = torch.zeros_like(p)
        return None, by_u0 if ctx.needs_input_grad[1] else None, *by_params

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise OptionError(_FORWARD_MODE)


def _set_up(ctx: Any, solve: Solve, *tensors: torch.Tensor) -> None:
    ctx.solve = solve
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)  # refuses tensors that were written to since


class _TransformedSolve(_Solve):
    """As ``torch.func`` takes a function of autograd; a little slower."""

    @staticmethod
    def forward(solve: Solve, u0: torch.Tensor, *params: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        return solve.forward(u0, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _set_up(ctx, *inputs)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], solve: Solve, *tensors: torch.Tensor) -> Any:
        solve.samples = [
            dataclasses.replace(solve, trajectory=Trajectory(), samples=[]) for _ in range(info.batch_size)
        ]
        for sample in solve.samples:
            sample.differentiated = True
        stacked = _one_by_one(_TransformedSolve, solve.samples, in_dims[1:], tensors)
        solve.trajectory = _one_after_another(sample.trajectory for sample in solve.samples)
        return stacked


class _PullBack(torch.autograd.Function):
    """The gradients by u0 and each parameter, as a function of these and of the cotangents."""

    @staticmethod
    def forward(solve: Solve, count: int, u0: torch.Tensor, *tensors: Maybe) -> tuple[torch.Tensor, ...]:
        params = [x for x in tensors[:count] if x is not None]
        with torch.no_grad():
            by_u0, by_params = solve.pull_back(params, tensors[count:])
        return by_u0, *(
            torch.zeros_like(p) if g is None else g for p, g in zip(params, by_params, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.solve, ctx.count, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *by_gradients: Maybe) -> tuple[Maybe, ...]:
        if transforming():
            raise DoubleBackwardError(
                "torch.func takes first derivatives of a solve: for second ones call torch.autograd.grad "
                "with create_graph=True, or differentiate local_error"
            )
        u0, *tensors = ctx.saved_tensors
        params, cotangents = tensors[: ctx.count], tensors[ctx.count :]
        return None, None, *ctx.solve.pull_back_again(u0, params, cotangents, by_gradients)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], solve: Solve, count: int, *tensors: Maybe) -> Any:
        solves = solve.samples or [solve] * info.batch_size
        return _one_by_one(_PullBack, solves, in_dims[2:], tensors, count)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise OptionError(_FORWARD_MODE)


_FORWARD_MODE = (
    "forward-mode differentiation (torch.func.jvp, jacfwd, hessian; torch.autograd.forward_ad) through a "
    "solve is not there: take reverse mode (torch.func.vjp, grad, jacrev)"
)


def _one_by_one(
    function: Any,
    solves: Sequence[Solve],
    in_dims: Sequence[int | None],
    tensors: Sequence[Maybe],
    *more: Any,
) -> Any:
    """As torch.func.vmap wants it: each sample has a solve, and steps, of its own."""
    results = []
    for i, solve in enumerate(solves):
        own = [x if x is None or d is None else x.select(d, i) for x, d in zip(tensors, in_dims, strict=True)]
        results.append(function.apply(solve, *more, *own))
    stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _one_after_another(trajectories: Iterable[Trajectory]) -> Trajectory:
    """The steps and the counts of several solves."""
    every = Trajectory()
    for one in trajectories:
        every.t += one.t
        every.dt += one.dt
        every.EEst += one.EEst
        every.calls += one.calls
        every.nreject += one.nreject
    return every


__all__ = ["Calls", "Recorded", "Solve"]
