"""What the options of the steps save, in evaluations: ``python -m benchmarks.steps``.

The paper's MNIST shape (a state of 128 x 784, one hidden layer of 100 tanh, the last layer's weights as they
are initialized and three times as large), Lotka-Volterra and the Pleiades, Tsit5, float64; the neural SDE of
`benchmarks.sde`, SOSRI2 and SRIW1. A row is the mean over solves from several states in training mode, after
a first one: calls of the dynamics at one tolerance, with its error; then calls at one error, which is the
stack's own controller's at that tolerance, read off between the tolerances of a ladder (log by log).
Evaluations depend on nothing else that the machine does.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.problems import PROBLEMS
from benchmarks.sde import BATCH, FINEST, WIDTH, Diffusion, Drift

H211 = plr.PIDController(1 / 6, 1 / 6, accept_safety=0.95)
OPTIONS: dict[str, dict[str, Any]] = {
    "the stack's (PI)": {},
    'controller="I"': {"controller": "I"},
    'controller="PID"': {"controller": "PID"},
    "PIDController(1/6, 1/6, accept_safety=0.95)": {"controller": H211},
    'dt="last"': {"dt": "last"},
    'landing="even"': {"landing": "even"},
    'PID, dt="last", landing="even"': {"controller": "PID", "dt": "last", "landing": "even"},
}
OF_SDES: dict[str, dict[str, Any]] = {
    **OPTIONS,
    "qmax=5": {"qmax": 5.0},
    'I, dt="last", qmax=2, landing="even"': {
        "controller": "I",
        "dt": "last",
        "qmax": 2.0,
        "landing": "even",
    },
}
LADDER = tuple(10 ** (i / 2) for i in range(4, -8, -1))
OF_SDES_LADDER = tuple(10 ** (i / 4) for i in range(2, -7, -1))
"""Tolerances, over that of the row; steps of SDEs grow in number like 1 / tolerance."""


@dataclass(frozen=True)
class Measured:
    nfe: float
    error: float


Measure = Callable[[float, dict[str, Any]], Measured]
"""At a tolerance, with options."""


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def of_ode(dynamics: Any, states: Sequence[torch.Tensor], end: float) -> Measure:
    """Over these states; the first is solved twice, and counts once."""

    def node(tolerance: float, **options: Any) -> plr.NeuralODE:
        return plr.NeuralODE(
            dynamics, (0.0, end), abstol=tolerance, reltol=tolerance, engine="torch", **options
        )

    with torch.no_grad():
        exact = [node(1e-12, solver="Vern7")(u0.double()).u for u0 in states]

    @torch.no_grad()
    def measure(tolerance: float, options: dict[str, Any]) -> Measured:
        one = node(tolerance, **options)
        one(states[0])
        solutions = [one(u0) for u0 in states]
        errors = [rms(solution.u - right) for solution, right in zip(solutions, exact, strict=True)]
        return _mean([s.stats.nfe for s in solutions], errors)

    return measure


def of_sde(solver: str, states: Sequence[torch.Tensor]) -> Measure:
    drift, diffusion = Drift().double(), Diffusion().double()

    def node(**options: Any) -> plr.NeuralSDE:
        return plr.NeuralSDE(drift, diffusion, engine="torch", **options)

    with torch.no_grad():
        exact = [node(solver="SRIW1", dt=1 / FINEST, adaptive=False)(u0) for u0 in states]

    @torch.no_grad()
    def measure(tolerance: float, options: dict[str, Any]) -> Measured:
        one = node(solver=solver, abstol=tolerance, reltol=tolerance, **options)
        one(states[0], noise=exact[0].noise)
        solutions = [one(u0, noise=right.noise) for u0, right in zip(states, exact, strict=True)]
        errors = [rms(solution.u - right.u) for solution, right in zip(solutions, exact, strict=True)]
        return _mean([s.stats.nfe for s in solutions], errors)

    return measure


def _mean(nfe: Sequence[int], errors: Sequence[float]) -> Measured:
    logs = [math.log(error) for error in errors]
    return Measured(sum(nfe) / len(nfe), math.exp(sum(logs) / len(logs)))


def at_error(ladder: Sequence[Measured], error: float) -> float | None:
    """Calls where the ladder, its errors falling, comes to this error; None where it does not."""
    for above, below in pairwise(ladder):
        if above.error >= error >= below.error and above.error > below.error:
            share = math.log(above.error / error) / math.log(above.error / below.error)
            return float(above.nfe * (below.nfe / above.nfe) ** share)
    return None


def table(
    measure: Measure, tolerance: float, options: dict[str, dict[str, Any]], factors: Sequence[float]
) -> list[str]:
    rows = ["| | NFE | error | at equal error |", "|---|---:|---:|---:|"]
    plain = measure(tolerance, {})
    for name, given in options.items():
        at_tolerance = measure(tolerance, given)
        ladder = [measure(tolerance * factor, given) for factor in factors]
        equal = at_error(ladder, plain.error)
        ratio = "" if equal is None else f"{equal:.0f} ({equal / plain.nfe:.2f})"
        shown = f"{at_tolerance.nfe:.0f} ({at_tolerance.nfe / plain.nfe:.2f})"
        rows.append(f"| {name} | {shown} | {at_tolerance.error:.1e} | {ratio} |")
    return rows


def mnist(scale: float, count: int) -> Measure:
    torch.manual_seed(0)
    hidden, out = torch.nn.Linear(785, 100).double(), torch.nn.Linear(101, 784).double()
    with torch.no_grad():
        out.weight.mul_(scale)

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        time = t.expand(len(u), 1)
        inner = torch.tanh(hidden(torch.cat([u, time], 1)))
        k: torch.Tensor = out(torch.cat([inner, time], 1))
        return k

    return of_ode(f, [torch.rand(128, 784, dtype=torch.float64) for _ in range(count)], 1.0)


def standard(name: str, count: int) -> Measure:
    problem = PROBLEMS[name]
    field, u0 = problem.field(torch), torch.from_numpy(problem.u0)
    states = [u0 * (1 + 0.01 * i) for i in range(count)]
    return of_ode(lambda t, u: field(u), states, min(problem.end, 10.0))


def sde(solver: str, count: int) -> Measure:
    torch.manual_seed(0)
    return of_sde(solver, [torch.randn(BATCH, WIDTH, dtype=torch.float64) for _ in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description="what the options of the steps save")
    parser.add_argument("--states", type=int, default=3, help="solves of each row")
    parser.add_argument("--only", nargs="+", help="names of the parts to run")
    arguments = parser.parse_args()
    count = arguments.states
    odes: dict[str, tuple[Callable[[], Measure], float]] = {
        "MNIST shape": (lambda: mnist(1.0, count), 1e-5),
        "MNIST shape, larger weights": (lambda: mnist(3.0, count), 1e-5),
        "Lotka-Volterra": (lambda: standard("Lotka-Volterra", count), 1e-6),
        "Pleiades": (lambda: standard("Pleiades", count), 1e-6),
    }
    sdes: dict[str, tuple[Callable[[], Measure], float]] = {
        "SDE, SOSRI2": (lambda: sde("SOSRI2", count), 1e-1),
        "SDE, SRIW1": (lambda: sde("SRIW1", count), 1e-1),
    }
    parts = [(name, *part, OPTIONS, LADDER) for name, part in odes.items()]
    parts += [(name, *part, OF_SDES, OF_SDES_LADDER) for name, part in sdes.items()]
    for name, make, tolerance, options, factors in parts:
        if arguments.only is None or name in arguments.only:
            print(f"\n{name}, tolerance {tolerance:g}\n")
            print(*table(make(), tolerance, options, factors), sep="\n", flush=True)


if __name__ == "__main__":
    main()
