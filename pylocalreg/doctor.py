"""What this machine has of the Julia engine, and what to do where something is missing."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass

import torch

from pylocalreg.engines.julia_engine.start import JULIA, start, why_no_cuda, why_unavailable
from pylocalreg.errors import EngineUnavailableError


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` is empty where nothing is missing."""

    name: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything the engines need; starts Julia where there is one."""
    return [*_python(), *_julia()]


def _python() -> list[Finding]:
    findings = [Finding("Python", platform.python_version())]
    for package in ("torch", "numpy", "juliacall", "juliapkg"):
        try:
            findings.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "not installed", f"pip install {package}"))
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [*findings, Finding("CUDA device", cuda), Finding("torch threads", str(torch.get_num_threads()))]


def _julia() -> list[Finding]:
    exe = os.environ.get("PYTHON_JULIACALL_EXE")
    where = f"{exe} (PYTHON_JULIACALL_EXE)" if exe else "juliapkg's own"
    reason = why_unavailable()
    if reason is not None:
        return [Finding("Julia engine", "not available", reason)]
    try:
        julia = start()
    except EngineUnavailableError as error:
        return [Finding("Julia engine", f"does not start: {where}", str(error))]
    version, packages, threads = julia.call("about")
    return [
        Finding("Julia engine", "available"),
        Finding("Julia", f"{version}, {where}", _of_another_julia(str(version))),
        Finding("Julia threads", str(threads)),
        *_julia_cuda(),
        *(Finding(name, packages[name]) for name in sorted(packages)),
    ]


def _of_another_julia(version: str) -> str:
    """What to do where LocalReg is not meant for this version; empty where it is."""
    from juliapkg.compat import Compat, Version

    if Version.parse(version) in Compat.parse(JULIA):
        return ""
    return f"LocalReg takes Julia {JULIA}: set PYTHON_JULIACALL_EXE to one of these"


def _julia_cuda() -> list[Finding]:
    if not torch.cuda.is_available():
        return []
    reason = why_no_cuda()
    return [Finding("Julia on the GPU", "not available" if reason else "available", reason or "")]
