"""A GPU's work in order: torch's before a call of Julia, Julia's own, and torch's after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pylocalreg.engines.julia_engine.start import Julia


@contextmanager
def in_order(julia: Julia, device: torch.device) -> Iterator[None]:
    """Julia's stream is torch's current one within; it waits for torch's before, and torch's for it after.

    The streams wait for one another as DLPack asks of whoever exchanges arrays; the host waits for neither.
    On the CPU there is nothing to order.
    """
    if device.type == "cpu":
        yield
        return
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
