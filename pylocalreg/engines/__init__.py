"""Engines: who solves."""

import logging

from pylocalreg.engines.base import Engine
from pylocalreg.engines.torch_engine import TorchEngine
from pylocalreg.errors import EngineUnavailableError, OptionError

_log = logging.getLogger("pylocalreg")
_torch_engine = TorchEngine()
_said = False


def get_engine(name: str) -> Engine:
    """The engine called ``"auto"``, ``"torch"`` or ``"julia"``.

    Raises:
        EngineUnavailableError: ``"julia"`` is asked for; this version has only its outline.
        OptionError: no engine has that name.
    """
    global _said
    if name == "torch":
        return _torch_engine
    if name == "auto":
        if not _said:
            _said = True
            _log.warning(
                "pylocalreg solves with its embedded PyTorch engine (engine='torch' silences this line)"
            )
        return _torch_engine
    if name == "julia":
        raise EngineUnavailableError(
            "engine='julia': this version of pylocalreg has no Julia engine yet; engine='torch' takes "
            "the same steps"
        )
    raise OptionError(f"engine {name!r} does not exist: choose 'auto', 'torch' or 'julia'")


__all__ = ["Engine", "get_engine"]
