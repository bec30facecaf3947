"""`pylocalreg install-julia`: a Julia and the stack by juliapkg, in steps that are said, and a solve."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import pylocalreg as plr
from pylocalreg.engines.julia_engine.start import LUXCUDA, start
from pylocalreg.engines.packages import PACKAGES
from pylocalreg.errors import EngineUnavailableError, OptionError

GB = 1e9
NEEDED, NEEDED_CUDA = 4 * GB, 12 * GB
"""Free disk that is asked for, in bytes. Measured: 0.5 GB of Julia, 1.1 GB of packages and compiled code; the
rest is for binaries, the registry and downloads under way, and with CUDA for its libraries.
"""
TIME = "half an hour on two cores, most of it compiling some 360 packages; less on more"
AGAIN = "the same command goes on from there: what was downloaded and compiled is kept"


def install(cuda: bool = False, add: Sequence[str] = ()) -> None:
    """Install Julia and the packages of juliapkg.json, with ``cuda`` also CUDA.jl and cuDNN, and those of
    `packages.PACKAGES` that ``add`` names; then solve, and check what comes out. Prints each step.

    Where ``PYTHON_JULIACALL_EXE`` and ``PYTHON_JULIACALL_PROJECT`` name a Julia of the user's own, nothing is
    installed: it is checked.

    Raises:
        OptionError: ``add`` names another, or packages are asked for beside a Julia of the user's own.
        EngineUnavailableError: juliapkg is missing, or could not; too little room; the solve is wrong.
        KeyboardInterrupt: after a line that says how to go on.
    """
    _check_names(add)
    began = time.monotonic()
    own = os.environ.get("PYTHON_JULIACALL_EXE") or os.environ.get("PYTHON_JULIACALL_PROJECT")
    try:
        if own and (cuda or add):
            raise OptionError(
                "PYTHON_JULIACALL_EXE or _PROJECT names a Julia of your own, whose project nothing is added "
                "to: add the packages there by Julia's Pkg, or unset both"
            )
        if own:
            print(f"1 of 3  your own Julia is taken, nothing is installed: {own}", flush=True)
        else:
            _resolve(cuda, add)
        _say_versions()
        _check_solve()
    except KeyboardInterrupt:
        print(f"\nstopped; {AGAIN}", flush=True)
        raise
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes: engine='julia' is ready", flush=True)


def _check_names(add: Sequence[str]) -> None:
    unknown = [name for name in add if name not in PACKAGES]
    if unknown:
        raise OptionError(
            f"no algorithm is known of the package {unknown[0]!r}: choose of {sorted(PACKAGES)}, or add it "
            "to a project of your own"
        )


def _resolve(cuda: bool, add: Sequence[str]) -> None:
    needed, depot = NEEDED_CUDA if cuda else NEEDED, _depot()
    free = shutil.disk_usage(depot).free
    if free < needed:
        raise EngineUnavailableError(
            f"{depot} has {free / GB:.1f} GB of free disk, and Julia with its packages takes up to "
            f"{needed / GB:.0f} GB: make room, or let JULIA_DEPOT_PATH name a folder on another disk"
        )
    more = "".join(f", {name}" for name in (*(["LuxCUDA"] if cuda else ()), *add))
    print(
        f"1 of 3  Julia, LocalReg and the SciML stack{more}: up to {needed / GB:.0f} GB in {depot} "
        f"({free / GB:.0f} GB are free), {TIME}. Ctrl-C may stop it: {AGAIN}",
        flush=True,
    )
    try:
        import juliapkg

        if cuda:
            juliapkg.add("LuxCUDA", **LUXCUDA)
        for name in add:
            juliapkg.add(name, uuid=PACKAGES[name].uuid)
        juliapkg.resolve()
    except Exception as error:
        raise EngineUnavailableError(
            f"juliapkg could not install Julia and its packages: {error}. It needs the network; "
            f"{AGAIN}. Where there is a Julia already, set PYTHON_JULIACALL_EXE to it and "
            "PYTHON_JULIACALL_PROJECT to a project that has LocalReg"
        ) from error


def _depot() -> Path:
    """Where Julia keeps packages: the first folder of JULIA_DEPOT_PATH, or the nearest above that exists."""
    first = os.environ.get("JULIA_DEPOT_PATH", "").split(os.pathsep)[0]
    folder = Path(first or Path.home() / ".julia")
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def _say_versions() -> None:
    print("2 of 3  starting Julia and loading the stack", flush=True)
    version, packages, _ = start().call("about")
    print(f"        Julia {version}: {', '.join(f'{name} {packages[name]}' for name in sorted(packages))}")


def _check_solve() -> None:
    """u' = p u by every part of the bridge, layers, steps, gradient, estimate, and by the embedded engine."""
    print("3 of 3  a solve with its gradient, beside the embedded engine's", flush=True)
    (julia, taken), (embedded, steps) = (_solve(engine) for engine in ("julia", "torch"))
    difference = max(float((one - other).abs().max()) for one, other in zip(julia, embedded, strict=True))
    if not (
        difference < 1e-8 and taken == steps and math.isclose(float(julia[0]), math.exp(-1), rel_tol=1e-6)
    ):
        raise EngineUnavailableError(
            f"Julia starts, but solves u' = -u to {float(julia[0])!r} in {taken} steps where the embedded "
            f"engine has {float(embedded[0])!r} in {steps}, and they differ by up to {difference:.1e}: "
            "please report it with what `pylocalreg doctor` prints"
        )
    print(f"        the same {steps} steps, values and gradients to {difference:.0e}", flush=True)


def _solve(engine: str) -> tuple[list[torch.Tensor], int]:
    """u(1) of u' = -u, its gradients and the regularizer's, and the number of accepted steps."""
    node = plr.NeuralODE(
        plr.Chain(plr.Dense(1, 1)),
        # of the logarithm's gradient a short step's estimate leaves but seven digits
        regularizer=plr.LocalRegularizer(
            "biased", scale="linear", generator=torch.Generator().manual_seed(0)
        ),
        engine=engine,
    ).double()
    u0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    (p,) = node.parameters()
    with torch.no_grad():
        p.copy_(torch.tensor([-1.0, 0.0]))
    solution = node(u0)
    assert solution.regularization is not None
    gradients = torch.autograd.grad(solution.u.sum() + solution.regularization, (u0, p))
    return [solution.u.detach(), *gradients], solution.stats.naccept
