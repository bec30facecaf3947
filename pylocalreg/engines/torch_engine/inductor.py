"""Functions compiled by ``torch.compile``: one kernel for what is many passes over memory one by one."""

import functools
import logging
import operator
import platform
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pylocalreg.engines.torch_engine.functional import Tensors
from pylocalreg.engines.torch_engine.rational_tanh import rational_tanh
from pylocalreg.engines.torch_engine.together import together

Compiled = Callable[..., Sequence[Any]]

SMALL = 2**15
"""Multiplications, in rows of whole vectors, below which a matrix product is loops of the kernel around it:
calling a library costs more.
"""
VECTOR = 16  # float32 numbers of AVX-512


def inductor(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> Compiled:
    """PyTorch's own compiler, with small matrix products in the kernels."""
    from torch._inductor.compile_fx import compile_fx  # which takes seconds to import

    loops = any(node.target is torch.ops.higher_order.while_loop for node in graph.graph.nodes)
    _log.addFilter(_without_shims)
    try:
        compiled: Compiled = compile_fx(  # type: ignore[assignment]
            graph,
            examples,  # type: ignore[arg-type]
            config_patches={"cpp_wrapper": loops},  # else Python would run the loop
            decompositions=_decompositions(),
        )
    finally:
        _log.removeFilter(_without_shims)

    def run(*args: Any) -> Sequence[Any]:
        return compiled(*[_as_read(x) for x in args])

    return run


def _as_read(x: Any) -> Any:
    """As inductor may read it: it takes elements as they lie in memory, and so loses the sign of a view that
    one bit negates, as ``z.conj().imag`` is.
    """
    if not (isinstance(x, torch.Tensor) and x.is_neg()):
        return x
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=x.device).copy_(x)


_log = logging.getLogger("torch._inductor.ir")


def _without_shims(record: logging.LogRecord) -> bool:
    """Leaves out that a loop calls Python for what has no C interface: a factorization, once a step."""
    return "c-shim" not in record.getMessage()


BACKEND: Callable[[torch.fx.GraphModule, Sequence[Any]], Compiled] = inductor


@functools.cache
def _decompositions() -> dict[Any, Any]:
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    own = {aten.mm.default: _mm, aten.addmm.default: _addmm, aten.tanh.default: _tanh}
    return {**select_decomp_table(), **own}


def _mm(a: torch.Tensor, b: torch.Tensor) -> Any:
    """``NotImplemented`` leaves the product as it is; what is compared here, the compiler guards."""
    (m, k), n = a.shape, b.shape[1]
    if a.device.type != "cpu" or m * k * VECTOR * (-(-n // VECTOR)) > SMALL:
        return NotImplemented
    if 2 * n * -(-k // VECTOR) < k:  # vectors of k where those of n would be mostly empty
        return together(*((a * b[:, j]).sum(1) for j in range(n)))
    return (a.unsqueeze(2) * b.unsqueeze(0)).sum(1)


def _addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    product = _mm(a, b)
    if product is NotImplemented or (beta, alpha) != (1, 1):
        return NotImplemented
    return c + product


def _tanh(x: torch.Tensor) -> Any:
    single = x.device.type == "cpu" and x.dtype is torch.float32
    return rational_tanh(x) if single else NotImplemented


COMPILES_ONCE = "2.9"
"""The first torch that was seen to compile a step for all solves; 2.6 does so for each."""


def unfit() -> str | None:
    """Why this PyTorch is not asked to compile anything, if it is not."""
    of = f"torch {torch.__version__}"
    if torch.__version__ < COMPILES_ONCE:
        return f"{of} compiles again for every solve; take torch {COMPILES_ONCE} or newer"
    try:
        if _sees_changes():
            return None
    except Exception as error:  # no torch.compile for this Python, say
        return f"{of}: {error}"
    return (
        f"{of} on Python {platform.python_version()} calls what it compiled when a module's attribute is "
        "another than then; take newer ones"
    )


@functools.cache
def _sees_changes() -> bool:
    """Whether a changed attribute is seen: by 2.9.1 on Python 3.13.0 it is not."""

    class Module(torch.nn.Module):
        doubled = False

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return 2 * u if self.doubled else u + 0

    def run(module: Module, u: torch.Tensor) -> torch.Tensor:
        called: torch.Tensor = module(u)
        return called

    compiled = torch.compile(run, fullgraph=True, backend=lambda graph, _: graph.forward)
    module, u = Module(), torch.ones(1, device="cpu")
    with torch.no_grad():
        compiled(module, u)
        module.doubled = True
        return float(compiled(module, u)) == 2


OF_LOOPS = {"specialize_float": True, "recompile_limit": 4}
"""A loop can not be given a module's Python float: it is compiled for the value, and for a few others."""
_of_loops = threading.RLock()  # older versions set for all threads what one sets


def fused(method: str, *first: Any, loops: bool = False) -> Callable[..., Tensors]:
    """``method`` of the object it is called with, given ``first`` and tensors of any shape; ``loops`` says
    that it has loops which are compiled with it.

    Raises:
        RuntimeError: PyTorch is `unfit`.
        Exception: at a call: no C++ compiler, or something that can not be traced.
    """
    reason = unfit()
    if reason is not None:
        raise RuntimeError(reason)

    def run(at: Any, *args: Any) -> Tensors:
        given: Tensors = getattr(at, method)(*first, *args)
        return given

    run.__code__ = run.__code__.replace()  # by which the compiler counts how often it compiled a function
    compiled: Callable[..., Tensors] = torch.compile(run, dynamic=True, fullgraph=True, backend=_noting)

    def of_steps(*args: Any) -> Tensors:
        with _hooks_as_they_were():
            return compiled(*args)

    def of_loops(*args: Any) -> Tensors:
        with _of_loops, torch._dynamo.config.patch(OF_LOOPS):  # type: ignore[attr-defined]
            return of_steps(*args)

    return of_loops if loops else of_steps


@contextmanager
def _hooks_as_they_were() -> Iterator[None]:
    """A compiler that fails inside a transformed function leaves hooks of saved tensors forbidden: dynamics
    that run uncompiled then may want them, for ``torch.utils.checkpoint``.
    """
    autograd = torch._C._autograd
    before = autograd._saved_tensors_hooks_get_disabled_error_message()
    try:
        yield
    finally:
        if before is None:
            autograd._saved_tensors_hooks_enable()
        else:
            autograd._saved_tensors_hooks_disable(before)


class _Noted(threading.local):
    """The call of a compiled graph that this thread made last."""

    call: tuple[Compiled, Sequence[Any], Sequence[Any]] | None = None


_noted = _Noted()


def _noting(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> Compiled:
    compiled = BACKEND(graph, examples)

    def run(*args: Any) -> Sequence[Any]:
        outputs = compiled(*args)
        _noted.call = compiled, args, outputs
        return outputs

    return run


class InOneSolve:
    """A fused function as one solve calls it: ``held`` first, then tensors that differ from call to call in
    nothing but their elements. ``modules`` are those that it calls.

    To see whether what was compiled is right for the modules' attributes and the shapes takes half of the
    time of a small step. The first call sees it; those that follow call the same graph, but where a module
    stores something at its calls, which is no part of a graph.
    """

    def __init__(
        self, function: Callable[..., Tensors], *held: Any, modules: Iterable[torch.nn.Module] = ()
    ) -> None:
        self.function, self.held, self.modules = function, held, list(modules)
        self.strides: list[tuple[int, ...]] | None = None

    def __call__(self, *tensors: torch.Tensor) -> Tensors:
        if self.strides is None or [x.stride() for x in tensors] != self.strides:
            return self._looked_at(tensors)
        args = self.args.copy()
        for place, i in self.places:
            args[place] = tensors[i]
        outputs = self.graph(*args)
        return tuple([outputs[i] for i in self.returned])

    def _looked_at(self, tensors: Tensors) -> Tensors:
        _noted.call, self.strides = None, None
        before = self._attributes()
        given = self.function(*self.held, *tensors)
        call, _noted.call = _noted.call, None
        after = self._attributes()
        if call is not None and len(after) == len(before) and all(map(operator.is_, before, after)):
            self._note(call, tensors, given)
        return given

    def _attributes(self) -> list[Any]:
        return [value for module in self.modules for value in vars(module).values()]

    def _note(
        self, call: tuple[Compiled, Sequence[Any], Sequence[Any]], tensors: Tensors, given: Tensors
    ) -> None:
        """Where each of the tensors went, and where what was given came from."""
        self.graph, args, outputs = call
        of_tensor = {id(x): i for i, x in enumerate(tensors)}
        of_output = {id(x): i for i, x in enumerate(outputs)}
        if len({*map(id, given)}) < len(of_output) or any(id(x) not in of_output for x in given):
            return  # something else is stored, or given
        if len(of_tensor) < len(tensors):
            return  # one tensor was given twice, which the graph takes once
        self.args = [None if id(x) in of_tensor else x for x in args]  # which would be kept for the solve
        self.places = [(place, of_tensor[id(x)]) for place, x in enumerate(args) if id(x) in of_tensor]
        self.returned = [of_output[id(x)] for x in given]
        self.strides = [x.stride() for x in tensors]


class AcrossSolves:
    """A fused function whose solves, as far as ``key`` says, differ in nothing but elements: those after the
    first call the same graph, and no compiler looks on.
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self.function = function
        self.last: tuple[Hashable, InOneSolve] | None = None

    def __call__(self, key: Hashable, held: Sequence[Any], *tensors: torch.Tensor) -> Tensors:
        """``key`` None is of dynamics that nobody knows."""
        if key is None:
            return self.function(*held, *tensors)
        last = self.last
        if last is not None and last[0] == key:
            return last[1](*tensors)
        looking = InOneSolve(self.function, *held)
        given = looking(*tensors)
        self.last = key, looking
        return given
