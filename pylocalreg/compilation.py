"""How a module's forward stays itself inside a model that is compiled, traced or exported."""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from pylocalreg.errors import OptionError

P = ParamSpec("P")
T = TypeVar("T")

is_compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
"""Whether the compiler is reading this call; before torch 2.3 under a private name."""


def uncompiled(forward: Callable[P, T]) -> Callable[P, T]:
    """``forward``, run as it is where a model around it is compiled: one break of the graph.

    As ``torch.compiler.disable``, which takes a second to import, and only where something is compiled.

    Raises:
        OptionError: at a call inside ``torch.jit.trace`` or ``torch.export``, which would keep the steps of
            one solve for all.
    """

    @functools.wraps(forward)
    def as_it_is(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch._C._is_tracing() or _is_exporting(args):
            raise OptionError(
                "torch.jit.trace and torch.export can not take a solve: its steps are chosen while it runs. "
                "Export the dynamics and what stands around the solve, or use torch.compile"
            )
        if "torch._dynamo" not in sys.modules:
            return forward(*args, **kwargs)
        if forward not in _disabled:
            _disabled[forward] = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
        result: T = _disabled[forward](*args, **kwargs)
        return result

    as_it_is.__dict__["_torchdynamo_disable"] = True  # what the compiler looks for
    return as_it_is


STAND_INS = (
    ("torch._subclasses.fake_tensor", "FakeTensor"),
    ("torch._subclasses.functional_tensor", "FunctionalTensor"),  # before torch 2.3
)
"""What a state is while a model is exported, and where: only looked for where it has been imported."""

_disabled: dict[Callable[..., Any], Callable[..., Any]] = {}


def _is_exporting(args: Any) -> bool:
    state = args[1] if len(args) > 1 else None
    if type(state) is torch.Tensor:
        return False
    stand_ins = tuple(getattr(sys.modules[name], kind) for name, kind in STAND_INS if name in sys.modules)
    if isinstance(state, torch.Tensor):
        return isinstance(state, stand_ins)
    return any(isinstance(x, stand_ins) for x in torch.utils._pytree.tree_leaves(state))
