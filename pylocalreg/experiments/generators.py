"""Every state of random draws together: torch's global ones and a task's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch


def seeded(seed: int, *spawn: int) -> torch.Generator:
    """A CPU generator of its own for each tuple of numbers, a rank's or an epoch's, say."""
    (state,) = np.random.SeedSequence([seed, *spawn]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def states(generators: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
    """By name; torch's global generators, the CPU's and the current CUDA device's, are among them."""
    found = {name: generator.get_state() for name, generator in generators.items()}
    found["torch"] = torch.get_rng_state()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["torch.cuda"] = torch.cuda.get_rng_state()
    return found


def restore(generators: Mapping[str, torch.Generator], found: Mapping[str, torch.Tensor]) -> None:
    for name, generator in generators.items():
        generator.set_state(found[name])
    torch.set_rng_state(found["torch"])
    if "torch.cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["torch.cuda"])


@contextmanager
def aside(generators: Mapping[str, torch.Generator], seed: int) -> Iterator[None]:
    """Draws from ``seed`` inside, the same ones each time; outside they go on as if there had been none."""
    before = states(generators)
    torch.manual_seed(seed)
    for generator in generators.values():
        generator.manual_seed(seed)
    try:
        yield
    finally:
        restore(generators, before)
