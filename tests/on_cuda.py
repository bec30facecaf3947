"""The suite on a GPU: ``pytest -p tests.on_cuda tests/test_adjoints.py ...``.

PyTorch's default device is the GPU, so that every tensor, module and golden number of the tests lies there.
What tests alone do is turned: a draw from a CPU generator is made on the CPU and moved, an array made from a
tensor is copied to the CPU first. The package's own code gets no such help.
What is of the CPU alone is left out. What depends on a CPU's random numbers fails by design: the stack's SDE
solves over one path, paths that a test makes without a device, a dropout mask.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

OF_THE_CPU = (
    "test_at_once",
    "test_compiled",
    "test_memory",
    "test_narrow",
    "test_stiff_at_once",
    "test_working_memory",
)
DRAWS = ("rand", "randn", "randint", "randperm", "normal", "multinomial")


def _of_tests(depth: int = 2) -> bool:
    """Whether the caller's caller is a test's code, or what it calls of a third package."""
    return str(sys._getframe(depth).f_globals.get("__name__", "")).startswith(("tests.", "test_"))


def _moved(draw: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(draw)
    def moved(*args: Any, **options: Any) -> Any:
        generator = options.get("generator")
        if _of_tests() and generator is not None and generator.device.type == "cpu":
            wanted = options.pop("device", "cuda")
            return draw(*args, **options, device="cpu").to(wanted)
        return draw(*args, **options)

    return moved


def _copied(export: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(export)
    def copied(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        return export(tensor.cpu() if _of_tests() else tensor, *args, **options)

    return copied


def _imported(array: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @wraps(array)
    def imported(*args: Any) -> torch.Tensor:
        tensor = array(*args)
        return tensor.cuda() if _of_tests() else tensor

    return imported


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if collection_path.stem in OF_THE_CPU else None


def pytest_configure() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("tests.on_cuda: no CUDA device on this machine")
    for name in DRAWS:
        setattr(torch, name, _moved(getattr(torch, name)))
    torch.Tensor.numpy = _copied(torch.Tensor.numpy)  # type: ignore[method-assign]
    torch.Tensor.__array__ = _copied(torch.Tensor.__array__)  # type: ignore[method-assign]
    torch.from_numpy = _imported(torch.from_numpy)
    torch.set_default_device("cuda")
