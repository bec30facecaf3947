"""A module's buffers as they were, after calls that are made to look at it and not to solve."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from pylocalreg.engines.torch_engine.functional import NotFunctionalError


@contextmanager
def kept_buffers(module: torch.nn.Module) -> Iterator[None]:
    """What is written to the buffers within (batch norm's running statistics) is undone.

    Raises:
        NotFunctionalError: other tensors were put in the place of some, which no recording would do again.
    """
    owners = [(owner, dict(owner._buffers)) for owner in module.modules() if owner._buffers]
    before = [(x, x.clone()) for _, buffers in owners for x in buffers.values() if x is not None]
    try:
        yield
    finally:
        replaced = False
        for owner, buffers in owners:
            replaced |= any(owner._buffers[name] is not x for name, x in buffers.items())
            owner._buffers.update(buffers)
        for x, was in before:
            # a graph may hold one that nothing was written to, and a replayed write counts for none
            with torch.no_grad(), _unsafe_preserve_version_counter(x):
                x.copy_(was)
    if replaced:
        raise NotFunctionalError("the dynamics put other tensors in the place of their buffers")
