"""Engines: who solves."""

import functools
import logging

from pylocalreg.engines.base import Engine
from pylocalreg.engines.torch_engine import TorchEngine
from pylocalreg.errors import OptionError

_log = logging.getLogger("pylocalreg")
_torch_engine = TorchEngine()


def get_engine(name: str) -> Engine:
    """The engine called ``"auto"``, ``"torch"`` or ``"julia"``.

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


@functools.cache
def _julia_engine() -> Engine:
    from pylocalreg.engines.julia_engine import JuliaEngine

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


__all__ = ["Engine", "get_engine"]
