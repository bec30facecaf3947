"""What this machine has, for a bug report, and what to do where something is missing."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import pylocalreg
from pylocalreg.engines.julia_engine.start import JULIA, start, why_no_cuda, why_unavailable
from pylocalreg.errors import EngineUnavailableError


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` is empty where nothing is missing."""

    name: str
    found: str
    advice: str = ""


CORE = ("torch", "numpy", "juliacall", "juliapkg")
EXTRAS = ("torchdiffeq", "torchode", "torchsde", "diffrax")
"""Their versions matter where the bug is a difference from them."""
VARIABLES = ("PYTHON_JULIA", "JULIA_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_VISIBLE")


def examine() -> list[Finding]:
    """Look at everything the engines need; starts Julia where there is one."""
    return [*_python(), *_machine(), *_variables(), *_julia()]


def report(findings: Sequence[Finding]) -> str:
    """Lines to paste into a bug report, and behind them what to do. Names no one's home."""
    width = max(len(finding.name) for finding in findings)
    found = [f"{finding.name:{width}}  {finding.found}" for finding in findings]
    to_do = [f"{finding.name}: {finding.advice}" for finding in findings if finding.advice]
    text = "\n".join(["For a bug report:", "```", *found, "```", *(["To do:", *to_do] if to_do else ())])
    return text.replace(str(Path.home()), "~")


def _python() -> list[Finding]:
    findings = [
        Finding("pylocalreg", pylocalreg.__version__),
        Finding("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
    ]
    for package in (*CORE, *EXTRAS):
        try:
            findings.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            if package in CORE:
                findings.append(Finding(package, "not installed", f"pip install {package}"))
    return findings


def _machine() -> list[Finding]:
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        Finding("System", platform.platform()),
        Finding("Processor", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"),
        Finding("torch threads", str(torch.get_num_threads())),
        Finding("CUDA device", cuda if torch.version.cuda is None else f"{cuda}, CUDA {torch.version.cuda}"),
    ]


def _variables() -> list[Finding]:
    return [Finding(name, os.environ[name]) for name in sorted(os.environ) if name.startswith(VARIABLES)]


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
