"""Autocast ends at a solve's door: steps and their errors are computed in the state's own dtype."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_log = logging.getLogger("pylocalreg")


def autocasting(device: torch.device) -> bool:
    """Whether autocast is on for the device."""
    try:
        return torch.is_autocast_enabled(device.type)
    except TypeError:  # torch < 2.4
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else torch.is_autocast_enabled()
    except RuntimeError:  # a kind of device that autocast does not know
        return False


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Within, autocast is off."""
    if not autocasting(device):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def at_the_door(x: torch.Tensor) -> torch.Tensor:
    """A tensor that goes into a solve: under autocast one of half precision becomes float32, said once."""
    if not autocasting(x.device):
        return x
    _say_once()
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@functools.cache
def _say_once() -> None:
    _log.warning(
        "autocast is off inside pylocalreg's solves: they compute in the state's dtype, in float32 where it "
        "is of half precision"
    )
