"""Engines: who solves."""

import functools
import logging
from collections.abc import Callable
from typing import TypeVar

from pylocalreg.engines.base import Engine
from pylocalreg.engines.torch_engine import TorchEngine
from pylocalreg.errors import OptionError

T = TypeVar("T")

_log = logging.getLogger("pylocalreg")
_torch_engine = TorchEngine()


def get_engine(name: str) -> Engine:
    """The engine called ``"auto"``, ``"torch"`` or ``"julia"``; ``"auto"`` is Julia where it is installed.

    Raises:
        EngineUnavailableError: ``"julia"`` is asked for, and there is no Julia or it lacks packages.
        OptionError: no engine has that name.
    """
    if name == "torch":
        return _torch_engine
    if name == "julia":
        return _julia_engine()
    if name == "auto":
        return _chosen()
    raise OptionError(f"engine {name!r} does not exist: choose 'auto', 'torch' or 'julia'")


def engine_for(name: str, check: Callable[[Engine], T]) -> tuple[Engine, T]:
    """The engine called ``name``, and what ``check`` gives for it.

    ``"auto"`` takes the embedded engine for what ``check`` refuses of Julia's, and says so: where a program
    runs does not depend on what is installed beside it.

    Raises:
        EngineUnavailableError: as `get_engine`.
        OptionError: no engine has that name, or ``check`` refuses what is asked for.
    """
    engine = get_engine(name)
    if name != "auto" or engine is _torch_engine:
        return engine, check(engine)
    try:
        return engine, check(engine)
    except OptionError as refused:
        checked = check(_torch_engine)
        _log.warning("pylocalreg solves this with its embedded PyTorch engine: %s", refused)
        return _torch_engine, checked


@functools.cache
def _julia_engine() -> Engine:
    from pylocalreg.engines.julia_engine.engine import JuliaEngine

    return JuliaEngine()


@functools.cache
def _chosen() -> Engine:
    """What ``"auto"`` takes, said once: Julia where it is installed."""
    from pylocalreg.engines.julia_engine.start import why_unavailable

    if why_unavailable() is None:
        _log.warning("pylocalreg solves with the SciML stack in Julia (engine='julia' silences this line)")
        return _julia_engine()
    _log.warning("pylocalreg solves with its embedded PyTorch engine (engine='torch' silences this line)")
    return _torch_engine


__all__ = ["Engine", "engine_for", "get_engine"]
