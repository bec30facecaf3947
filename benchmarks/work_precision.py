"""Error against CPU time and calls of f: ``python -m benchmarks.work_precision``.

Every contestant solves the problems of `benchmarks.problems` at a ladder of tolerances, one solve of one
state, forward, in float64 on one thread. An error is the largest relative one at the end, against scipy at
1e-13 (DOP853, or Radau where the problem is stiff). Times are the process's CPU time, medians over rounds in
turns, after a solve that compiles what there is to compile. ``--records FILE`` takes a line a point.
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.integrate
import torch

import pylocalreg as plr
from benchmarks.problems import PROBLEMS, TestProblem
from benchmarks.records import Records
from pylocalreg.errors import LocalRegError
from pylocalreg.experiments.files import replacing

JULIA = Path(__file__).parent / "problems.jl"
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
TOO_LONG = 5.0  # seconds, after which a contestant takes no tighter tolerance

Array = npt.NDArray[np.float64]
Solve = Callable[[float], tuple[Array, int]]
"""The state at the end and the calls of f, of a tolerance."""


class Field(torch.nn.Module):
    """A problem's f as the torch packages call it."""

    def __init__(self, problem: TestProblem) -> None:
        super().__init__()
        self.f = problem.field(torch)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        du: torch.Tensor = self.f(u)
        return du


class Counted(Field):
    """For packages that do not count."""

    def __init__(self, problem: TestProblem) -> None:
        super().__init__(problem)
        self.calls = 0

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(t, u)


Engine = Literal["torch", "julia", "julia function"]


def of_pylocalreg(
    solver: str, engine: Engine = "torch", compile: bool = False
) -> Callable[[TestProblem], Solve]:
    """``"julia"`` calls the PyTorch function back, ``"julia function"`` takes the problem in Julia."""

    def build(problem: TestProblem) -> Solve:
        u0 = torch.from_numpy(problem.u0)
        field: torch.nn.Module = Field(problem)
        if engine == "julia function":
            field = plr.julia.function(problem.julia, file=JULIA).double()

        node = plr.NeuralODE(
            field,
            (0.0, problem.end),
            solver=solver,
            engine="torch" if engine == "torch" else "julia",
            adjoint="interpolating",  # not taken here; the default has no FBDF
            compile=compile,
        )

        def solve(tolerance: float) -> tuple[Array, int]:
            node.abstol, node.reltol = _absolute(problem, tolerance), tolerance
            with torch.no_grad():
                solution = node(u0)
            return solution.u.numpy(), solution.stats.nfe

        return solve

    return build


def of_torchdiffeq(method: str) -> Callable[[TestProblem], Solve]:
    def build(problem: TestProblem) -> Solve:
        torchdiffeq: Any = importlib.import_module("torchdiffeq")
        u0, times = torch.from_numpy(problem.u0), torch.tensor([0.0, problem.end], dtype=torch.float64)

        def solve(tolerance: float) -> tuple[Array, int]:
            field = Counted(problem)
            atol = _absolute(problem, tolerance)
            with torch.no_grad():
                u = torchdiffeq.odeint(field, u0, times, rtol=tolerance, atol=atol, method=method)[-1]
            return u.numpy(), field.calls

        return solve

    return build


def of_torchode(problem: TestProblem) -> Solve:
    torchode: Any = importlib.import_module("torchode")
    u0 = torch.from_numpy(problem.u0)[None]
    zero, end = torch.zeros(1, dtype=torch.float64), torch.full((1,), problem.end, dtype=torch.float64)

    def solve(tolerance: float) -> tuple[Array, int]:
        field = Counted(problem)
        term = torchode.ODETerm(lambda t, u: field(t, u[0])[None])
        atol = _absolute(problem, tolerance)
        controller = torchode.IntegralController(atol=atol, rtol=tolerance, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
        with torch.no_grad():
            u = solver.solve(torchode.InitialValueProblem(u0, zero, end)).ys[0, -1]
        return u.numpy(), field.calls

    return solve


STAGES = {"Tsit5": 6, "Dopri8": 13, "Kvaerno5": 7}
"""Calls of f a step of diffrax's methods, which it does not count; implicit iterations are left out."""


def of_diffrax(method: str) -> Callable[[TestProblem], Solve]:
    def build(problem: TestProblem) -> Solve:
        jax: Any = importlib.import_module("jax")
        diffrax: Any = importlib.import_module("diffrax")
        jax.config.update("jax_enable_x64", True)
        f = problem.field(jax.numpy)
        u0 = jax.numpy.asarray(problem.u0)
        term, solver = diffrax.ODETerm(lambda t, u, args: f(u)), getattr(diffrax, method)()

        def whole(atol: Any, rtol: Any, u0: Any) -> Any:
            controller = diffrax.PIDController(rtol=rtol, atol=atol)
            solution = diffrax.diffeqsolve(
                term, solver, 0.0, problem.end, None, u0, stepsize_controller=controller, max_steps=10**6
            )
            return solution.ys[-1], solution.stats["num_steps"]

        compiled = jax.jit(whole)

        def solve(tolerance: float) -> tuple[Array, int]:
            u, steps = compiled(_absolute(problem, tolerance), tolerance, u0)
            return np.asarray(u), int(steps) * STAGES[method]

        return solve

    return build


def of_scipy(method: str) -> Callable[[TestProblem], Solve]:
    def build(problem: TestProblem) -> Solve:
        f = problem.field(np)

        def solve(tolerance: float) -> tuple[Array, int]:
            solution = scipy.integrate.solve_ivp(
                lambda t, u: f(u),
                (0.0, problem.end),
                problem.u0,
                method,
                rtol=tolerance,
                atol=_absolute(problem, tolerance),
            )
            return solution.y[:, -1], int(solution.nfev)

        return solve

    return build


def _absolute(problem: TestProblem, tolerance: float) -> float:
    """Robertson's second species stays below 1e-4: its absolute tolerance is smaller."""
    return tolerance * (1e-4 if problem.stiff else 1.0)


EXPLICIT: dict[str, Callable[[TestProblem], Solve]] = {
    "pylocalreg Tsit5": of_pylocalreg("Tsit5"),
    "pylocalreg Vern7": of_pylocalreg("Vern7"),
    "pylocalreg Tsit5, compile=True": of_pylocalreg("Tsit5", compile=True),
    "pylocalreg Vern7, compile=True": of_pylocalreg("Vern7", compile=True),
    "pylocalreg Tsit5, Julia engine": of_pylocalreg("Tsit5", "julia"),
    "pylocalreg Tsit5, Julia function": of_pylocalreg("Tsit5", "julia function"),
    "pylocalreg Vern7, Julia function": of_pylocalreg("Vern7", "julia function"),
    "torchdiffeq dopri5": of_torchdiffeq("dopri5"),
    "torchdiffeq dopri8": of_torchdiffeq("dopri8"),
    "torchode Tsit5": of_torchode,
    "diffrax Tsit5": of_diffrax("Tsit5"),
    "diffrax Dopri8": of_diffrax("Dopri8"),
    "scipy RK45": of_scipy("RK45"),
    "scipy DOP853": of_scipy("DOP853"),
}
STIFF: dict[str, Callable[[TestProblem], Solve]] = {
    "pylocalreg Rosenbrock23": of_pylocalreg("Rosenbrock23"),
    "pylocalreg Rodas5P": of_pylocalreg("Rodas5P"),
    "pylocalreg Rodas5P, compile=True": of_pylocalreg("Rodas5P", compile=True),
    "pylocalreg Rodas5P, Julia engine": of_pylocalreg("Rodas5P", "julia"),
    "pylocalreg Rodas5P, Julia function": of_pylocalreg("Rodas5P", "julia function"),
    "pylocalreg FBDF, Julia function": of_pylocalreg("FBDF", "julia function"),
    "diffrax Kvaerno5": of_diffrax("Kvaerno5"),
    "scipy Radau": of_scipy("Radau"),
    "scipy BDF": of_scipy("BDF"),
    "scipy LSODA": of_scipy("LSODA"),
}


def reference(problem: TestProblem) -> Array:
    method = "Radau" if problem.stiff else "DOP853"
    u: Array = of_scipy(method)(problem)(1e-13 if not problem.stiff else 1e-12)[0]
    return u


def points(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Of every contestant that is here, at every tolerance that it manages."""
    problem = PROBLEMS[name]
    right = reference(problem)
    solves = {}
    for contestant, build in (STIFF if problem.stiff else EXPLICIT).items():
        try:
            solves[contestant] = build(problem)
            solves[contestant](TOLERANCES[0])
        except (ImportError, LocalRegError) as missing:
            print(f"{name}: {contestant} left out, {missing}")
            solves.pop(contestant, None)
    late: set[str] = set()
    for tolerance in TOLERANCES:
        running = {contestant: solve for contestant, solve in solves.items() if contestant not in late}
        times: dict[str, list[float]] = {contestant: [] for contestant in running}
        found = {contestant: solve(tolerance) for contestant, solve in running.items()}
        for _ in range(rounds):
            for contestant, solve in running.items():
                if sum(times[contestant]) > TOO_LONG:
                    continue
                began = time.process_time()
                solve(tolerance)
                times[contestant].append(time.process_time() - began)
        for contestant, (u, nfe) in found.items():
            seconds = statistics.median(times[contestant])
            error = float(np.abs(u - right).max() / np.abs(right).max())
            yield {
                "problem": name,
                "contestant": contestant,
                "tolerance": tolerance,
                "error": error,
                "nfe": nfe,
                "ms": 1e3 * seconds,
            }
            if seconds > TOO_LONG / 2:
                late.add(contestant)


def at_error(runs: Sequence[dict[str, Any]], error: float, what: str) -> float | None:
    """A contestant's cost at an error, on the line between its two points around it, in logarithms; where
    even its loosest tolerance errs less, that of the cheapest point.
    """
    line = sorted((run["error"], run[what]) for run in runs if 0 < run["error"] < np.inf)
    if not line or error < line[0][0]:
        return None
    if error > line[-1][0]:
        return float(min(cost for _, cost in line))
    x, y = np.log([e for e, _ in line]), np.log([cost for _, cost in line])
    return float(np.exp(np.interp(np.log(error), x, y)))


def table(runs: Sequence[dict[str, Any]], error: float = 1e-6) -> str:
    """CPU time in ms (calls of f in brackets) at an error; the fastest of each problem is bold."""
    parts = []
    for stiff in (False, True):
        measured = {run["problem"] for run in runs}
        names = [name for name in PROBLEMS if PROBLEMS[name].stiff == stiff and name in measured]
        rows: dict[str, list[tuple[float | None, float | None]]] = {}
        for contestant in STIFF if stiff else EXPLICIT:
            of = [run for run in runs if run["contestant"] == contestant]
            if of:
                its = [[run for run in of if run["problem"] == name] for name in names]
                rows[contestant] = [(at_error(one, error, "ms"), at_error(one, error, "nfe")) for one in its]
        best = [
            min((row[i][0] for row in rows.values() if row[i][0] is not None), default=None)  # type: ignore[type-var]
            for i in range(len(names))
        ]
        lines = [f"| {' | '.join(['', *names])} |", "|---" + "|---:" * len(names) + "|"]
        for contestant, row in rows.items():
            cells = [
                ""
                if ms is None or nfe is None
                else f"**{ms:.1f}** ({nfe:.0f})"
                if ms == best[i]
                else f"{ms:.1f} ({nfe:.0f})"
                for i, (ms, nfe) in enumerate(row)
            ]
            lines.append(f"| {' | '.join([contestant, *cells])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw(runs: Sequence[dict[str, Any]], output: Path) -> None:
    """One panel a problem, error against CPU time; the last panel names the lines."""
    plt: Any = importlib.import_module("matplotlib.pyplot")
    names = [name for name in PROBLEMS if any(run["problem"] == name for run in runs)]
    figure, axes = plt.subplots(2, len(names) // 2 + 1, figsize=(18, 9), layout="constrained")
    colors = {contestant: plt.get_cmap("tab20")(i % 20) for i, contestant in enumerate((*EXPLICIT, *STIFF))}
    lines: dict[str, Any] = {}
    for axis, name in zip(axes.flat, names, strict=False):
        for contestant in STIFF if PROBLEMS[name].stiff else EXPLICIT:
            of = [run for run in runs if (run["problem"], run["contestant"]) == (name, contestant)]
            ours = contestant.startswith("pylocalreg")
            (lines[contestant],) = axis.loglog(
                [run["error"] for run in of],
                [run["ms"] for run in of],
                "o-" if ours else "s--",
                color=colors[contestant],
                markersize=4,
                linewidth=2.0 if ours else 1.0,
            )
        axis.set(title=name, xlabel="relative error at the end", ylabel="CPU time, ms")
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    axes.flat[-1].legend(lines.values(), lines, loc="center", fontsize=9)
    with replacing(output) as partial:
        figure.savefig(partial, dpi=100, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="error against CPU time and calls of f")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--records", type=Path, default=Path("results/work_precision.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(options.records)
    for name in options.problems:
        if not records.has(problem=name):
            for point in list(points(name, options.rounds)):
                records.add(point)
    print(table(records.runs))
    draw(records.runs, options.records.with_suffix(".png"))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
