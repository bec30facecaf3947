"""Finding Julia, and starting it: lazily, once, in this process."""

import functools
import importlib.util
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from pylocalreg.engines.julia_engine.signals import shared_signals
from pylocalreg.errors import EngineUnavailableError

_log = logging.getLogger("pylocalreg")
lock = threading.RLock()
"""Held by whoever is inside Julia: one thread at a time."""
_started_in: int | None = None

JULIA = "1.10 - 1.11"
"""The versions of Julia that LocalReg takes, as in its Project.toml; juliapkg installs one from 1.10.3 on."""

LUXCUDA = {"uuid": "d0bbae9a-e099-4d5b-a835-1c6931763bda", "version": "0.3.6"}
"""Lux's CUDA.jl and cuDNN, which set off LocalReg's extension; the version as in LocalReg's Project.toml."""

INSTALL = (
    "run `pylocalreg install-julia` (half an hour, once), or take engine='torch', which takes the same steps"
)


def why_unavailable() -> str | None:
    """Why the Julia engine can not run here, without starting anything; None where it can.

    Julia is there where ``PYTHON_JULIACALL_EXE`` and ``PYTHON_JULIACALL_PROJECT`` name one, or where juliapkg
    has installed one with all packages.
    """
    for package in ("juliacall", "juliapkg"):
        if importlib.util.find_spec(package) is None:
            return f"the Python package {package} is not installed: pip install 'pylocalreg[julia]'"
    exe, project = (os.environ.get(f"PYTHON_JULIACALL_{name}") for name in ("EXE", "PROJECT"))
    if exe or project:
        if not (exe and project):
            return "PYTHON_JULIACALL_EXE and PYTHON_JULIACALL_PROJECT must be set together, or neither"
        missing = [path for path in (exe, project) if not os.path.exists(path)]
        return f"{missing[0]} does not exist: correct PYTHON_JULIACALL_EXE and _PROJECT" if missing else None
    return None if _is_resolved() else f"Julia and its packages are not installed: {INSTALL}"


def _is_resolved() -> bool:
    import juliapkg

    try:
        return bool(juliapkg.resolve(dry_run=True))
    except Exception:  # juliapkg raises whatever it meets
        return False


@functools.cache
def why_no_cuda() -> str | None:
    """Why Julia can not solve on a GPU here; None where it can. Starts Julia, and loads CUDA.jl and cuDNN.

    Raises:
        EngineUnavailableError: as `start`.
    """
    julia = start()
    with lock:
        try:
            julia.main.seval("import LuxCUDA")
        except julia.juliacall.JuliaError as error:
            reason = str(error).splitlines()[0]
            return f"Julia does not load LuxCUDA ({reason}): run `pylocalreg install-julia --cuda`"
        if not julia.main.LuxCUDA.functional():
            return "CUDA.jl finds no working GPU: its own CUDA.versioninfo(), in Julia, says what it misses"
    _log.warning("Julia solves on the GPU: this path is tested on arrays that stand for a GPU's alone")
    return None


@functools.cache
def start() -> "Julia":
    """The running Julia with LocalReg loaded; started by the first call, from any thread.

    Raises:
        EngineUnavailableError: there is none, it does not start, or the process was forked after it did.
    """
    with lock:
        return _start()


def _start() -> "Julia":
    global _started_in
    reason = why_unavailable()
    if reason is not None:
        raise EngineUnavailableError(f"engine='julia': {reason}")
    _log.warning(
        "pylocalreg starts Julia and loads the SciML stack (the first time ever it compiles: minutes)"
    )
    began = time.monotonic()
    try:
        with warnings.catch_warnings(), shared_signals():
            warnings.filterwarnings("ignore", message="torch was imported before juliacall")
            import juliacall
        main: Any = juliacall.Main
        main.seval("import LocalReg")
        functions = main.LocalReg.host_functions(torch)
    except Exception as error:
        raise EngineUnavailableError(f"engine='julia': Julia did not start: {error}") from error
    _started_in = os.getpid()
    _log.warning("Julia %s is ready after %.0f s", main.VERSION, time.monotonic() - began)
    return Julia(juliacall, main, dict(functions))


class Julia:
    """The functions of LocalReg's host/, called under the lock, with Julia's exceptions made our own."""

    def __init__(self, juliacall: ModuleType, main: Any, functions: dict[str, Callable[..., Any]]) -> None:
        self.juliacall, self.main, self._functions = juliacall, main, functions

    def call(self, name: str, *args: Any) -> Any:
        """Call one of them.

        Raises:
            juliacall.JuliaError: what the function threw, its stack trace in it. An error raised by Python
                code that it called back comes through as it is.
        """
        return self.apply(self._functions[name], args)

    def apply(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call a Julia function of one argument that another one gave; raises as `call` does."""
        if os.getpid() != _started_in:
            raise EngineUnavailableError(
                f"engine='julia': Julia runs in process {_started_in}, and {os.getpid()} is a fork of it. "
                "Julia does not survive a fork: start workers by multiprocessing.get_context('spawn'), or "
                "take engine='torch' in them"
            )
        with lock:
            return function(argument)
