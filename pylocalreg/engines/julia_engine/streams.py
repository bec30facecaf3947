"""A GPU's work in order: torch's before a call of Julia, Julia's own, and torch's after it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from pylocalreg.engines.julia_engine.start import Julia


def in_order(julia: Julia, device: torch.device) -> AbstractContextManager[None]:
    """Julia's stream is torch's current one within; it waits for torch's before, and torch's for it after.

    The streams wait for one another as DLPack asks of whoever exchanges arrays; the host waits for neither.
    On the CPU there is nothing to order.
    """
    return nullcontext() if device.type == "cpu" else _in_order(julia, device)


@contextmanager
def _in_order(julia: Julia, device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device):
        outside = torch.cuda.current_stream()
        address = julia.call("cuda_stream", torch.cuda.current_device())
        stream = torch.cuda.ExternalStream(int(address))  # type: ignore[no-untyped-call]
        stream.wait_stream(outside)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            outside.wait_stream(stream)
