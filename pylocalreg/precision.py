"""Autocast ends at a solve's door: steps and their errors are computed in the state's own dtype."""

import functools
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within, autocast is off."""
    return torch.autocast(device.type, enabled=False) if autocasting(device) else nullcontext()


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
