"""The times of a solve."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """The span and the asked times as the state's dtype holds them; ``saved`` where ``saveat`` asked.

    ``asked`` are strictly ordered; ``rows`` says which of them each state of the solution is that of: equal
    times, and times that the dtype can not tell apart, share one. ``start`` and ``ends`` are the tensors that
    want a gradient: of the span's start and of each row's time.
    """

    tspan: tuple[float, float]
    asked: tuple[float, ...]
    rows: tuple[int, ...]
    saved: bool
    start: torch.Tensor | None
    ends: tuple[torch.Tensor | None, ...]

    @property
    def want_gradients(self) -> bool:
        return self.start is not None or any(end is not None for end in self.ends)
