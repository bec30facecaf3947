"""Working memory that stays with the process from one solve to the next.

PyTorch's CPU allocator keeps nothing: glibc gives what is freed at the end of a solve back to the system, and
the next solve has every page of it made anew, a seventh of a forward solve of the paper's MNIST shape. glibc
goes by the largest block that was mapped by itself and freed: it keeps twice as much from then on
(M_MMAP_THRESHOLD in mallopt(3)). So one such block is asked for and freed, untouched.
"""

import torch

STATES = 32
"""That a step and its reversal hold at once, generously."""
LARGEST = 31 << 20
"""Bytes of a block: glibc goes by none of more than 32 MiB, its own few beside included."""
PAGE = 4096

_told = STATES * PAGE  # below that glibc keeps it anyway


def keep_working_memory(u: torch.Tensor) -> None:
    """For solves of states like ``u``. Where the C library is another, nothing happens."""
    global _told
    size = min(STATES * u.numel() * u.element_size(), LARGEST)
    if size > _told and u.device.type == "cpu":
        _told = size
        torch.empty(size, dtype=torch.uint8, device="cpu")
