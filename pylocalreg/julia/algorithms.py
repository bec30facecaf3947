"""The stack's algorithms: made by name with their own keywords, and listed."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pylocalreg.checks import short
from pylocalreg.engines.algorithm import Algorithm
from pylocalreg.engines.julia_engine.start import start
from pylocalreg.engines.packages import OWNERS, PACKAGES
from pylocalreg.errors import OptionError

AUTODIFF = {"finite": "AutoFiniteDiff", "forward": "AutoForwardDiff"}
ADTYPES = "47edcb42-4c32-4615-8424-f2b9edc5f35b"
SYMBOLS = {
    "extrapolant": ("constant", "interpolant", "linear", "min_correct"),
    "sequence": ("bulirsch", "harmonic", "romberg"),
}
"""The keywords that take a name, and which."""

_NAME = re.compile(r"[^\W\d]\w*")


def algorithm(name: Any = None, *args: Any, code: str | None = None, **options: Any) -> Algorithm:
    """An algorithm of the stack as ``solver=``, for ``engine="julia"``.

    ``algorithm("KenCarp4", autodiff="finite")`` is KenCarp4 with a keyword of its own,
    ``algorithm("AutoTsit5", algorithm("Rosenbrock23"))`` is AutoTsit5(Rosenbrock23()). Names and keywords are
    data, and nothing of them is evaluated.

    Args:
        name: the algorithm's name in the stack, or an object that was made through juliacall.
        args: what the algorithm takes by position: numbers, or algorithms.
        code: in the place of all others one expression of Julia code, as ``"AutoTsit5(Rodas5P())"``. It is
            evaluated: give none that you did not write.
        options: the algorithm's own keywords: numbers, truth values, algorithms (of a package that has the
            name: ``nlsolve=algorithm("NLNewton", max_iter=20)``), and ``autodiff``, ``"finite"`` or
            ``"forward"``, ``extrapolant`` and ``sequence`` by name.

    Raises:
        OptionError: for what can be none of these. What the stack refuses of it is refused where it is solved
            with.
    """
    if code is not None:
        if name is not None or args or options or not isinstance(code, str):
            raise OptionError(f"code = {short(code)}: give Julia code, as a string, and nothing beside it")
        return Algorithm(f'julia"{code}"', ("code", code))
    if not isinstance(name, str):
        if args or options or not type(name).__module__.startswith("juliacall"):
            raise OptionError(
                f"algorithm({short(name)}): give an algorithm's name and its arguments, or code=, or one "
                "object that juliacall made and nothing beside it"
            )
        return Algorithm(f"{name} (object {id(name)})", ("object", name))
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"algorithm({name!r}): a name has letters, digits and underscores alone; Julia code is given as "
            "algorithm(code=...)"
        )
    positional = tuple(_argument(name, "an argument", x) for x in args)
    keywords = tuple((key, _argument(name, key, x)) for key, x in options.items())
    shown = [_shown(x) for x in args] + [f"{key}={_shown(x)}" for key, x in options.items()]
    return Algorithm.named(f"{name}({', '.join(shown)})" if shown else name, name, positional, keywords)


def _argument(name: str, key: str, x: Any) -> Any:
    """A number or a truth value as it is, all else as a row of LocalReg's `argument`."""
    if isinstance(x, Algorithm):
        return x.row
    if isinstance(x, str):
        if key == "autodiff" and x in AUTODIFF:
            return ("name", AUTODIFF[x], "ADTypes", ADTYPES, (), ())
        if x in SYMBOLS.get(key, ()):
            return ("symbol", x)
        choices = sorted(AUTODIFF) if key == "autodiff" else SYMBOLS.get(key)
        known = f"choose one of {list(choices)}" if choices else "it takes no string here"
        raise OptionError(
            f"algorithm({name!r}): {key} = {x!r}: {known}; another algorithm is given as algorithm({x!r}), "
            "and anything else as algorithm(code=...)"
        )
    if isinstance(x, bool | int) or (isinstance(x, float) and not math.isnan(x)):
        return x
    raise OptionError(
        f"algorithm({name!r}): {key} = {short(x)}: give a number, True or False, or an algorithm"
    )


def _shown(x: Any) -> str:
    return x if isinstance(x, str) else repr(x)


@dataclass(frozen=True)
class Solver:
    """An algorithm that this Julia has.

    Attributes:
        name: as ``solver=`` takes it with ``engine="julia"``.
        package: the Julia package it is of.
        kind: ``"ode"`` or ``"sde"``.
        order: of convergence; 0 where the stack does not say, or it varies.
        stiff: whether its steps solve systems with the Jacobian of the dynamics, for stiff problems.
        adaptive: whether it chooses its steps itself; the others need ``dt``.
    """

    name: str
    package: str
    kind: str
    order: float
    stiff: bool
    adaptive: bool


def solvers() -> list[Solver]:
    """The algorithms of the packages that this Julia has, by name. Starts Julia, and loads those packages.

    Raises:
        EngineUnavailableError: there is no Julia.
    """
    names = [(name, package, PACKAGES[package].uuid) for name, package in OWNERS.items()]
    return list(_rows(start().call("solvers", names)))


def _rows(rows: Iterable[tuple[Any, ...]]) -> Iterable[Solver]:
    for name, package, kind, order, stiff, adaptive in sorted(rows):
        yield Solver(str(name), str(package), str(kind), float(order), bool(stiff), bool(adaptive))
