"""The tensors that one call of the dynamics depends on, found in its graph."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

Edge = tuple[Any, int]
"""A node of the graph, and which of its outputs."""


def edge_of(x: torch.Tensor) -> Edge:
    """Where the gradient of a tensor that asks for one arrives."""
    with torch.enable_grad():  # a leaf has none before torch 2.3 where gradients are off
        edge = get_gradient_edge(x)
    return edge.node, edge.output_nr


def reached(k: torch.Tensor, start: Edge) -> tuple[list[torch.Tensor], list[Edge], bool]:
    """What ``k`` was computed from beside the state that the call was given, whose edge was ``start``:
    leaves, and edges of tensors that were made before that state was; and whether it was from that state.

    Nodes are numbered in the order they are made.
    """
    if not k.requires_grad:
        return [], [], False
    since = start[0]._sequence_nr()
    leaves: dict[int, torch.Tensor] = {}
    before: list[Edge] = []
    from_state = False

    def beyond(edge: Edge) -> bool:
        nonlocal from_state
        leaf = _leaf(edge)
        if leaf is not None:
            leaves[id(leaf)] = leaf
        elif edge == start:
            from_state = True
        elif edge[0]._sequence_nr() <= since:
            before.append(edge)
        else:
            return True
        return False

    _walk(k, beyond)
    return list(leaves.values()), before, from_state


def other_leaf(k: torch.Tensor, stops: set[Edge]) -> torch.Tensor | None:
    """A leaf that ``k`` was computed from by a way that leads over none of the ``stops``."""
    others: list[torch.Tensor] = []

    def beyond(edge: Edge) -> bool:
        if edge in stops:
            return False
        leaf = _leaf(edge)
        others.extend([] if leaf is None else [leaf])
        return leaf is None

    _walk(k, beyond)
    return others[0] if others else None


def _leaf(edge: Edge) -> torch.Tensor | None:
    leaf: torch.Tensor | None = getattr(edge[0], "variable", None)
    return leaf


def _walk(k: torch.Tensor, beyond: Callable[[Edge], bool]) -> None:
    """Show every edge of the graph behind ``k``, ``k``'s own first; those that lie behind one are shown where
    ``beyond`` says so.
    """
    first = edge_of(k)
    seen, waiting = {first}, [first]
    while waiting:
        edge = waiting.pop()
        if not beyond(edge):
            continue
        for node, output in edge[0].next_functions:
            if node is not None and (node, output) not in seen:
                seen.add((node, output))
                waiting.append((node, output))


class Entering(TorchFunctionMode):
    """Notes every tensor that asks for a gradient, or is a function transform's, and enters a computation.

    Calls of custom autograd functions and of scripted modules are not seen.
    """

    def __init__(self, own: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.tensors: dict[int, torch.Tensor] = {}
        self._made = {id(x): x for x in own}  # held, so that no other tensor gets its id

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for x in _tensors((args, kwargs)):
            if id(x) not in self._made and (x.requires_grad or is_transformed(x)):
                self.tensors[id(x)] = x
        result = func(*args, **kwargs)
        for x in _tensors(result):
            if id(x) not in self.tensors:
                self._made[id(x)] = x
        return result


def _tensors(nested: Any) -> Iterable[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from _tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from _tensors(value)


def is_transformed(x: torch.Tensor) -> bool:
    """Whether the tensor is one of ``torch.func``'s: of a batch under vmap, or of a function in grad."""
    transformed: bool = torch._C._functorch.is_functorch_wrapped_tensor(x)
    return transformed


def transforming() -> bool:
    """Whether this runs inside a function that ``torch.func`` transforms."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def in_forward_mode() -> bool:
    """Whether tensors may hold tangents here: inside ``torch.autograd.forward_ad.dual_level``."""
    return torch.autograd.forward_ad._current_level >= 0


def vmapping() -> bool:
    """Whether this runs inside ``torch.func.vmap``."""
    if not transforming():
        return False
    return torch._C._functorch.TransformType.Vmap in _transforms()


def _transforms() -> list[Any]:
    """The kinds of what ``torch.func`` does to this function, one inside the other."""
    functorch = torch._C._functorch
    if hasattr(functorch, "get_interpreter_stack"):
        return [one.key() for one in functorch.get_interpreter_stack() or ()]
    # before torch 2.3 only the innermost is to be seen: they are put aside one by one
    kinds, aside = [], []
    try:
        while torch._C._are_functorch_transforms_active():
            kinds.append(functorch.peek_interpreter_stack().key())
            aside.append(functorch.pop_dynamic_layer_stack())
    finally:
        for layer in reversed(aside):
            functorch.push_dynamic_layer_stack(layer)
    return kinds


class Substituting(TorchFunctionMode):
    """Computations take other tensors in the place of some, by their ids."""

    def __init__(self, others: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*self._replaced(args), **self._replaced(kwargs or {}))

    def _replaced(self, nested: Any) -> Any:
        if isinstance(nested, torch.Tensor):
            return self.others.get(id(nested), nested)
        if isinstance(nested, dict):
            return {key: self._replaced(value) for key, value in nested.items()}
        if type(nested) in (list, tuple):
            return type(nested)(self._replaced(value) for value in nested)
        return nested
