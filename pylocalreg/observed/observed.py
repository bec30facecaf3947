"""The user's dynamics as every engine calls them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from pylocalreg.errors import ChangedError, DtypeError, OptionError
from pylocalreg.observed.draws import Draws
from pylocalreg.observed.held import Held, held_by
from pylocalreg.observed.leaving import Leaving
from pylocalreg.observed.reached import (
    Edge,
    Entering,
    edge_of,
    is_transformed,
    other_leaf,
    reached,
    transforming,
)
from pylocalreg.observed.unseen import check_seen

LOOKED_AT = 16
"""Of a module's calls that are replayed each sixteenth is looked at for tensors not reached before; of those
of a plain function, which is more likely to reach them, every one."""


class Observed(torch.nn.Module):
    """Dynamics ``f(t, u)`` that may reach tensors nobody named, draw random numbers and write to their input.

    What they do is seen at the first call. Where they write to their input, every call gets a copy; where
    they draw random numbers, every call of the solve and of its replays draws the same.
    """

    call: Callable[[torch.Tensor, torch.Tensor], Any]
    """The user's own, or what adapts it to the solved tensor."""
    reached: tuple[torch.Tensor, ...] = ()
    """Tensors that want a gradient, and that nobody named."""
    draws: Draws | None = None
    writes: bool | None = None
    wasted = 0
    """Calls that were made to see what the dynamics do, and that no engine had a use for."""
    _first: tuple[float, torch.Tensor, Any] | None = None
    _stops: set[Edge] | None = None
    _plain = False
    _calls = 0
    _looked_at = 1

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.call = f
        if isinstance(f, torch.nn.Module):
            self._modules["f"] = f
        while isinstance(f, torch.nn.Module) and "f" in f._modules:  # what wraps the user's own
            f = f._modules["f"]
        if isinstance(f, torch.nn.Module) and not hasattr(f, "f"):
            self.__dict__["_looked_at"] = LOOKED_AT

    def waste(self) -> int:
        """The wasted calls that were not asked for yet."""
        wasted, self.wasted = self.wasted, 0
        return wasted

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value  # none is a parameter, and every solve makes one of these

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        """As `forward`; where there is nothing to do but call, no more than that."""
        if not self._plain:
            return self.forward(t, u)
        version = u._version
        k = self.call(t, u)
        if torch.is_grad_enabled() and u._version == version:
            if self._stops is not None:
                self._look_at(t, u, k)
            return k
        if u._version != version or u.requires_grad or getattr(k, "requires_grad", True):
            return self._without_graph(t, u, k, version)
        return k

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        if self.writes is None:
            return self._look(t, u.clone())
        if not torch.is_grad_enabled():
            return self._call_without_graph(t, u)
        version = _version(u)
        k = self._call(t, u)
        self._check_written(t, u, version)
        self._look_at(t, u, k)
        return k

    def _look_at(self, t: torch.Tensor, u: torch.Tensor, k: Any) -> None:
        self._calls += 1
        if self._stops is not None and (self._calls == 1 or self._calls % self._looked_at == 0):
            self._check(t, u, k, self._stops)

    def _call_without_graph(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        if self._first is not None and not is_transformed(u):
            (t0, u0, k0), self._first = self._first, None
            self._plain = not (self.writes or self.draws or torch.is_inference_mode_enabled())
            if float(t) == t0 and (u.data_ptr() == u0.data_ptr() or torch.equal(u, u0)):
                return k0
            self.wasted += 1
        version = _version(u)
        return self._without_graph(t, u, self._call(t, u), version)

    def _without_graph(self, t: torch.Tensor, u: torch.Tensor, k: Any, version: int) -> Any:
        """What a call gave, without the graphs that f makes for itself."""
        self._check_written(t, u, version)
        if u.requires_grad and u.grad_fn is None:  # f asked for it
            u.requires_grad_(False)
        return k.detach() if isinstance(k, torch.Tensor) and k.requires_grad else k

    def _call(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        given = u.clone() if self.writes else u
        if self.draws is None:
            return self.call(t, given)
        with self.draws.again():
            return self.call(t, given)

    def _check_written(self, t: torch.Tensor, u: torch.Tensor, version: int) -> None:
        if _version(u) != version:
            raise OptionError(
                f"the dynamics wrote to the state that they were given at t = {float(t):.6g}, and did not at "
                "their first call: have them compute out of place, or write to u.clone()"
            )

    def _look(self, t: torch.Tensor, own: torch.Tensor, held: Sequence[Held] | None = None) -> Any:
        """The first call: with a state that it may write to."""
        held = list(held_by(self.call)) if held is None else held
        draws = Draws(own.device, held)
        before = own.clone() if own.is_inference() else None  # which has no version
        version = _version(own)
        k = self.call(t, own)
        self.writes = _version(own) != version if before is None else not torch.equal(own, before)
        if draws.moved():
            self.draws = draws
        return k

    def see(self, t: float, u0: torch.Tensor, known: Sequence[torch.Tensor]) -> None:
        """Make the first call, at (t, u0), and find what it reaches beside what is ``known``. Its value is
        that of the first call an engine makes there.
        """
        time = u0.new_full((), t)
        if transforming():
            own = u0.clone()
            with Entering([time, own]) as entering:
                self._look(time, own)
            self.reached = _without(known, [x for x in entering.tensors.values() if x.is_floating_point()])
            return
        state, held = u0.detach(), list(held_by(self.call))
        own = (state.detach().requires_grad_() if torch.is_grad_enabled() else state).clone()
        start = edge_of(own) if own.requires_grad else None
        leaving = Leaving()
        try:
            with nullcontext() if start is None else leaving:
                k = self._look(time, own, held)
        except RuntimeError as error:
            _raise_for_dtype(error, [*known, *held], u0.dtype)
            if "numpy() on Tensor that requires grad" not in str(error):
                raise
            if u0.requires_grad or any(p.requires_grad for p in known):
                raise OptionError(
                    "the dynamics leave PyTorch for numpy: they have no gradient. Write them in PyTorch, or "
                    "solve within torch.no_grad()"
                ) from error
            start, k = None, self._look(time, state.clone(), held)
        if not isinstance(k, torch.Tensor):
            return  # refused by whoever calls
        if start is not None:
            leaves, edges, from_state = reached(k, start)
            wants = bool(leaves or edges) or any(x.requires_grad for x in (u0, *known))
            if wants and leaving.left:
                check_seen(self._wasted_call, time, state, k, start if from_state else None)
            made = self._made(edges, [*known, *held], time, state) if edges else []
            self.reached = _without(known, [*leaves, *made])
        self._first = t, state, k.detach()

    def _wasted_call(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        self.wasted += 1
        return self._call(t, u)

    def _made(
        self, edges: Sequence[Any], candidates: Sequence[Any], t: torch.Tensor, u: torch.Tensor
    ) -> list[torch.Tensor]:
        """The tensors, made before the solve, at these edges: among what f holds, else what enters a call."""
        found = _by_edge(candidates)
        if any(edge not in found for edge in edges):
            with Entering([t, u]) as entering:
                self._wasted_call(t, u)
            found |= _by_edge(entering.tensors.values())
        lost = [edge for edge in edges if edge not in found]
        if lost:
            raise OptionError(
                f"the dynamics depend on {len(lost)} tensors that were computed before the solve (by "
                f"{', '.join(edge[0].name() for edge in lost)}) and that can not be found: give them as "
                "node(u0, inputs=(x,)), or to the module as params=(x,)"
            )
        return [found[edge] for edge in edges]

    @contextmanager
    def replayed(self, given: Sequence[torch.Tensor]) -> Iterator[None]:
        """Within, calls with a graph may reach these tensors and the state alone; others are looked for."""
        self._stops, self._calls = {edge_of(x) for x in given if x.requires_grad}, 0
        try:
            yield
        finally:
            self._stops = None

    def _check(self, t: torch.Tensor, u: torch.Tensor, k: Any, stops: set[Edge]) -> None:
        if not isinstance(k, torch.Tensor) or not k.requires_grad or is_transformed(k):
            return
        other = other_leaf(k, stops | {edge_of(x) for x in (t, u) if x.requires_grad})
        if other is not None:
            raise ChangedError(
                f"at t = {float(t):.6g} the dynamics reach a tensor of shape {tuple(other.shape)} that wants "
                "a gradient and that they did not reach at their first call, at the start of the span: they "
                "hold other tensors than when they were solved, or depend on this one at some times alone. "
                "Then name it: params=(x,), or make it a parameter of the module"
            )


def observe(f: torch.nn.Module, t: float, u0: torch.Tensor, known: Sequence[torch.Tensor]) -> Observed:
    """The dynamics of a solve from (t, u0), called once; ``known`` are tensors that are named anyway.

    Raises:
        OptionError: they depend on a tensor that can not be found.
        DtypeError: they compute in another dtype than the state's.
    """
    observed = Observed(f)
    observed.see(t, u0, known)
    return observed


def observed_in(dynamics: Any) -> list[Observed]:
    """What was observed among these dynamics: themselves, or modules within what wraps them."""
    if isinstance(dynamics, Observed):
        return [dynamics]
    if not isinstance(dynamics, torch.nn.Module) or not dynamics._modules:
        return []
    return [module for module in dynamics.modules() if isinstance(module, Observed)]


def draws_numbers(dynamics: Any) -> bool:
    """Whether the dynamics drew random numbers at their first call."""
    return any(observed.draws is not None for observed in observed_in(dynamics))


def _version(u: torch.Tensor) -> int:
    return 0 if u.is_inference() else u._version


def _without(known: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    named = {id(x) for x in known}
    return tuple({id(x): x for x in found if id(x) not in named}.values())


def _by_edge(candidates: Any) -> dict[Any, torch.Tensor]:
    return {
        edge_of(x): x for x in candidates if isinstance(x, torch.Tensor) and x.requires_grad and not x.is_leaf
    }


def _raise_for_dtype(error: RuntimeError, held: Sequence[Any], dtype: torch.dtype) -> None:
    """Raise `DtypeError` where the dynamics failed for tensors of another dtype than the state's."""
    tensors = [x for x in held if isinstance(x, torch.Tensor)]
    tensors += [p for x in held if isinstance(x, torch.nn.Module) for p in x.parameters(recurse=False)]
    others = {x.dtype for x in tensors if x.is_floating_point()} - {dtype}
    if others and ("dtype" in str(error) or "scalar type" in str(error)):
        names = ", ".join(sorted(str(other) for other in others))
        raise DtypeError(
            f"the dynamics hold tensors of {names}, and the state is of {dtype} ({error}): move one to the "
            "other's dtype, as in module.to(u0.dtype)"
        ) from error
