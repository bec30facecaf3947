"""A function of tensors recorded once as a CUDA graph and replayed: its kernels without their launches."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

Tensors = tuple[torch.Tensor, ...]


class Graph(Protocol):
    """Work that reads and writes the same memory at every replay."""

    def capture(self, run: Callable[[], Tensors]) -> Tensors:
        """Record ``run``; gives the tensors that `replay` writes to, which hold nothing yet.

        Raises:
            RuntimeError: ``run`` does what can not be recorded.
        """

    def replay(self) -> None:
        """Do it again, on the current stream."""


class CudaGraph:
    """A CUDA graph, recorded on a stream of its own as PyTorch asks for it; one at a time in a process."""

    _recording = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self.graph, self.device = torch.cuda.CUDAGraph(), device

    def capture(self, run: Callable[[], Tensors]) -> Tensors:
        with self._recording, torch.cuda.device(self.device), _generator_left_sound():
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                run()  # what libraries set up at their first call can not be recorded
                # other threads may go on with what they do on the device
                with torch.cuda.graph(self.graph, stream=side, capture_error_mode="thread_local"):
                    outputs = run()
            current.wait_stream(side)
            return outputs

    def replay(self) -> None:
        with torch.cuda.device(self.device):
            self.graph.replay()


@contextmanager
def _generator_left_sound() -> Iterator[None]:
    """A recording that fails leaves the device's generator as if it still were recorded: every later draw
    would raise.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state() if hasattr(generator, "clone_state") else None
    try:
        yield
    except BaseException:
        if before is not None:
            generator.graphsafe_set_state(before)
        raise


class Captured:
    """``function`` with its inputs and outputs in memory of its own.

    What a call gives is overwritten by the next.
    """

    def __init__(
        self, function: Callable[..., Tensors], examples: Sequence[torch.Tensor], graph: Graph
    ) -> None:
        self.graph = graph
        self.inputs = tuple(torch.empty_like(x).copy_(x) for x in examples)
        self.outputs = graph.capture(lambda: function(*self.inputs))

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        for own, given in zip(self.inputs, inputs, strict=True):
            if own is not given:
                own.copy_(given, non_blocking=True)  # from the host: staged before it returns
        self.graph.replay()
        return self.outputs
