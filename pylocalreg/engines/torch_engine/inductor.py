"""Functions compiled by ``torch.compile``: one kernel for what is many passes over memory one by one."""

from collections.abc import Callable
from typing import Any

import torch

from pylocalreg.engines.torch_engine.functional import Tensors

BACKEND = "inductor"


def fused(method: str, *first: Any) -> Callable[..., Tensors]:
    """``method`` of the object it is called with, given ``first`` and tensors of any shape.

    Raises, at a call:
        Exception: no C++ compiler, or something that can not be traced.
    """

    def run(at: Any, *args: Any) -> Tensors:
        given: Tensors = getattr(at, method)(*first, *args)
        return given

    run.__code__ = run.__code__.replace()  # by which the compiler counts how often it compiled a function
    compiled: Callable[..., Tensors] = torch.compile(run, dynamic=True, fullgraph=True, backend=BACKEND)
    return compiled
