"""The precision of a solve: autocast ends at its door, so that steps and their errors are computed in the
state's own dtype, and products that PyTorch rounds to less than ``reltol`` are said.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_log = logging.getLogger("pylocalreg")

ROUNDING = {"TF32": 2.0**-10, "bfloat16": 2.0**-8}
"""The rounding of 1 in what PyTorch may multiply float32 as: TF32 on GPUs, by default in convolutions;
bfloat16 on CPUs that have it, by ``torch.set_float32_matmul_precision("medium")``.
"""


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


def check_products(
    reltol: float, device: torch.device, dtype: torch.dtype, convolves: Callable[[], bool]
) -> None:
    """Say once where the dynamics' products are rounded to less than ``reltol`` asks for: an error estimate
    takes the rounding for error, and a convolutional network was seen to need twice as many steps.
    """
    if dtype != torch.float32 or reltol >= max(ROUNDING.values()):
        return
    if device.type == "cuda":
        if _allowed(torch.backends.cuda.matmul):
            _say_rounded(
                reltol, "TF32", "products of matrices", "torch.backends.cuda.matmul.allow_tf32 = False"
            )
        if _allowed(torch.backends.cudnn) and convolves():
            _say_rounded(reltol, "TF32", "convolutions", "torch.backends.cudnn.allow_tf32 = False")
    elif device.type == "cpu" and _halves_on_cpu():
        highest = 'torch.set_float32_matmul_precision("highest")'
        _say_rounded(reltol, "bfloat16", "products of matrices", highest)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within, float32 is convolved in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _allowed(backend: Any) -> bool:
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:  # set by the names of torch 2.9, which this one does not speak for
        return bool(getattr(backend, "conv", backend).fp32_precision == "tf32")


def _halves_on_cpu() -> bool:
    backend: Any = torch.backends.mkldnn
    try:
        medium = torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:
        medium = backend.matmul.fp32_precision == "bf16"
    return medium and backend.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _say_rounded(reltol: float, kind: str, products: str, remedy: str) -> None:
    if reltol < ROUNDING[kind]:
        _log.warning(
            "reltol = %g is finer than %s resolves (%.2g), to which this device rounds %s: the error "
            "estimate takes that for error and steps stay small; ask for %s, loosen reltol or solve in "
            "torch.float64",
            reltol,
            kind,
            ROUNDING[kind],
            products,
            remedy,
        )
