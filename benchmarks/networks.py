"""pylocalreg beside its peers on two networks: ``python -m benchmarks.networks --shape mnist --threads 1``.

A state of 512 x 784 as the paper's MNIST model has it, or a small one of 32 x 2; a time-dependent network
with one hidden layer of 100 or 50 tanh, float32, tolerances 1e-5, t in [0, 1], Tsit5 (torchdiffeq: dopri5).
All contestants have the same weights, and run in turns, so that what else the machine does hits all of them
alike. On one thread the clock is the process's CPU time, on several, or beside a GPU, the wall's.

pylocalreg is given a description of layers, and takes steps of the network among its hidden values where
these are fewer than the state's. A module of the user's own, of which nothing is known, is called for each
stage, and has rows of its own. The tables' calls are counted by a hook, for which every call is made.

The stack's controller is careful: at one tolerance its error is some 30 times below the others', for about
twice the calls of f. So the forward solves show their error, and torchdiffeq also runs at the tolerance with
which its error comes to pylocalreg's. torchode steps every sample of the batch by itself; all others take
one step size for the batch, by the rms of the error over all of it.
"""

import argparse
import copy
import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.experiments.files import write_text
from pylocalreg.experiments.identity import device_name

TOLERANCE = 1e-5
TRAINED_NFE = 70  # a vanilla MNIST model comes to 60 to 100 calls of f a solve
SETTLE = 0.01  # seconds until the last contestant's idle threads have stopped spinning
PACKAGES = ("torch", "torchdiffeq", "torchode", "diffrax", "jax")

F_ALONE, PYLOCALREG, DISCRETE, INTERPOLATING = (
    "NFE x f alone",
    "pylocalreg",
    "pylocalreg discrete",
    "pylocalreg interpolating",
)
KEEPING = "pylocalreg discrete, keep_stages=True"
COMPILED, COMPILED_DISCRETE = "pylocalreg, compile=True", "pylocalreg discrete, compile=True"
FAST, FAST_DISCRETE = "pylocalreg, fast options", "pylocalreg discrete, fast options"
OWN, OWN_COMPILED = "pylocalreg, own module", "pylocalreg, own module, compile=True"
OWN_FAST = "pylocalreg, own module, fast options"
FAST_OPTIONS: dict[str, Any] = {"compile": True, "dt": "last", "controller": "PID", "landing": "even"}
SETTLED = 4  # solves after which dt="last" is what it stays
COMPILED_VANILLA, COMPILED_BIASED = "vanilla, compile=True", "biased, compile=True"
COMPILED_UNBIASED = "unbiased, compile=True"
TORCHDIFFEQ, TORCHDIFFEQ_ADJOINT = "torchdiffeq odeint", "torchdiffeq odeint_adjoint"
TORCHDIFFEQ_EQUAL = "torchdiffeq odeint, equal error"
TORCHODE, DIFFRAX = "torchode", "diffrax"
VANILLA, BIASED, UNBIASED, THROUGH_STATE = "vanilla", "biased", "unbiased", "biased through_state"

Run = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A state of ``batch`` x ``width``, a hidden layer of ``hidden``."""

    title: str
    batch: int
    width: int
    hidden: int


SHAPES = {"mnist": Shape("MNIST shape", 512, 784, 100), "small": Shape("small shape", 32, 2, 50)}


@dataclass(frozen=True)
class Contestant:
    """What is timed, and how often it calls f."""

    name: str
    run: Run
    calls: Callable[[], int]


@dataclass(frozen=True)
class Row:
    contestant: str
    calls: int
    ms: float
    ratio: float
    error: float | None


@dataclass(frozen=True)
class Target:
    """``measured`` takes at most ``at_most`` times what ``reference`` takes, on one of the `SHAPES`."""

    text: str
    measured: str
    reference: str
    at_most: float
    shape: str = "mnist"

    def verdict(self, ms: dict[str, list[float]]) -> dict[str, Any]:
        if self.measured not in ms or self.reference not in ms:
            return {"target": self.text, "measured": None, "verdict": "SKIPPED"}
        ratio = paired_ratio(ms[self.measured], ms[self.reference])
        verdict = "PASS" if ratio <= self.at_most else "MISS"
        return {"target": self.text, "measured": ratio, "verdict": verdict}


@dataclass(frozen=True)
class Contest:
    title: str
    reference: str
    shows_error: bool
    contestants: Sequence[Callable[[LayerDynamics, torch.Tensor], Contestant]]
    targets: Sequence[Target]


def calls_of(field: torch.nn.Module, run: Run) -> int:
    """Calls of ``field`` in one run, counted from outside so that the timed runs pay nothing for it."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    with field.register_forward_pre_hook(count):
        run()
    return calls


def of_torch(name: str, field: torch.nn.Module, run: Run) -> Contestant:
    return Contestant(name, run, lambda: calls_of(field, run))


def forward(solve: Run) -> Run:
    return torch.no_grad()(solve)


def training_step(field: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Run:
    def run() -> None:
        field.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]

    return run


def training(field: torch.nn.Module, solve: Callable[[], torch.Tensor]) -> Run:
    return training_step(field, lambda: solve().square().mean())


class OwnModule(torch.nn.Module):
    """The same f, as a module of which nothing is known."""

    def __init__(self, field: LayerDynamics) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = self.field(t, u)
        return k


def pylocalreg_node(field: torch.nn.Module, **options: Any) -> plr.NeuralODE:
    return plr.NeuralODE(field, abstol=TOLERANCE, reltol=TOLERANCE, engine="torch", **options)


def f_alone(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    """As many calls of f as pylocalreg's solve makes: the least that a solve in these steps can take."""
    node, t = pylocalreg_node(field), torch.tensor(0.5, device=x.device)
    with torch.no_grad():
        nfe = node(x).stats.nfe

    def run() -> None:
        with torch.no_grad():
            for _ in range(nfe):
                field(t, x)

    return of_torch(F_ALONE, field, run)


def pylocalreg_forward(
    name: str, own: bool = False, **options: Any
) -> Callable[[LayerDynamics, torch.Tensor], Contestant]:
    def contestant(field: LayerDynamics, x: torch.Tensor) -> Contestant:
        node = pylocalreg_node(OwnModule(field) if own else field, **options)
        with torch.no_grad():
            nfe = [node(x).stats.nfe for _ in range(SETTLED)][-1]  # no hook sees compiled calls
        return Contestant(name, forward(lambda: node(x).u), lambda: nfe)

    return contestant


def pylocalreg_training(
    name: str, own: bool = False, **options: Any
) -> Callable[[LayerDynamics, torch.Tensor], Contestant]:
    def contestant(field: LayerDynamics, x: torch.Tensor) -> Contestant:
        f = OwnModule(field) if own else field
        counted = pylocalreg_node(f, **{**options, "compile": False})  # no hook sees compiled calls
        node = pylocalreg_node(f, **options)
        run, timed = training(field, lambda: counted(x).u), training(field, lambda: node(x).u)
        for _ in range(SETTLED):
            run()
            timed()
        return Contestant(name, timed, lambda: calls_of(field, run))

    return contestant


def regularized(
    name: str, sampling: plr.Sampling, through_state: bool = False, **options: Any
) -> Callable[[LayerDynamics, torch.Tensor], Contestant]:
    def contestant(field: LayerDynamics, x: torch.Tensor) -> Contestant:
        def step(**more: Any) -> Run:
            drawn = torch.Generator().manual_seed(0)
            regularizer = plr.LocalRegularizer(sampling, through_state=through_state, generator=drawn)
            node = pylocalreg_node(field, regularizer=regularizer, **more)

            def loss() -> torch.Tensor:
                solution = node(x)
                assert solution.regularization is not None
                value: torch.Tensor = solution.u.square().mean() + solution.regularization
                return value

            return training_step(field, loss)

        counted = step()  # no hook sees compiled calls
        return Contestant(name, step(**options), lambda: calls_of(field, counted))

    return contestant


def relative_error(u: object, field: LayerDynamics, x: torch.Tensor) -> float:
    """rms error over rms size of u(t1), against a float64 solve at 1e-11."""
    tight = plr.NeuralODE(copy.deepcopy(field).double(), abstol=1e-11, reltol=1e-11, engine="torch")
    with torch.no_grad():
        right = tight(x.double()).u
    ours = u.cpu() if isinstance(u, torch.Tensor) else u
    difference = torch.from_numpy(np.array(np.asarray(ours))).double() - right.cpu()
    return float(difference.norm() / right.norm())


def equal_error_tolerance(field: LayerDynamics, x: torch.Tensor) -> float:
    """The loosest power of ten with which torchdiffeq's error is at most twice pylocalreg's."""
    with torch.no_grad():
        wanted = 2 * relative_error(pylocalreg_node(field)(x).u, field, x)
        for tolerance in (1e-5, 1e-6, 1e-7, 1e-8):
            u = torchdiffeq_solve("odeint", field, x, tolerance)()
            if relative_error(u, field, x) <= wanted:
                return tolerance
    raise RuntimeError(f"torchdiffeq does not come to an error of {wanted:.1e} in float32")


def torchdiffeq_solve(
    name: str, field: LayerDynamics, x: torch.Tensor, tolerance: float = TOLERANCE
) -> Callable[[], torch.Tensor]:
    odeint: Any = getattr(importlib.import_module("torchdiffeq"), name)
    times = torch.tensor([0.0, 1.0], device=x.device)

    def solve() -> torch.Tensor:
        u: torch.Tensor = odeint(field, x, times, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
        return u

    return solve


def torchdiffeq_forward(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    return of_torch(TORCHDIFFEQ, field, forward(torchdiffeq_solve("odeint", field, x)))


def torchdiffeq_training(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    return of_torch(TORCHDIFFEQ, field, training(field, torchdiffeq_solve("odeint", field, x)))


def torchdiffeq_forward_equal(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    solve = torchdiffeq_solve("odeint", field, x, equal_error_tolerance(field, x))
    return of_torch(TORCHDIFFEQ_EQUAL, field, forward(solve))


def torchdiffeq_training_equal(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    solve = torchdiffeq_solve("odeint", field, x, equal_error_tolerance(field, x))
    return of_torch(TORCHDIFFEQ_EQUAL, field, training(field, solve))


def torchdiffeq_adjoint(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    return of_torch(
        TORCHDIFFEQ_ADJOINT, field, training(field, torchdiffeq_solve("odeint_adjoint", field, x))
    )


class TimeOfEach(torch.nn.Module):
    """The same f with the time of every sample, which is how torchode calls it."""

    def __init__(self, field: LayerDynamics) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        w1, t1, b1, w2, t2, b2 = self.field.tensors()
        hidden = torch.addmm(torch.addcmul(b1, t[:, None], t1), u, w1).tanh_()
        return torch.addmm(torch.addcmul(b2, t[:, None], t2), hidden, w2)


def torchode_solve(field: TimeOfEach, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    torchode: Any = importlib.import_module("torchode")
    term = torchode.ODETerm(field)
    controller = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
    # no other contestant differentiates the step sizes, so it is spared that work too
    solver = torchode.AutoDiffAdjoint(
        torchode.Tsit5(term=term), controller, backprop_through_step_size_control=False
    )
    problem = torchode.InitialValueProblem(x, x.new_zeros(len(x)), x.new_ones(len(x)))

    def solve() -> torch.Tensor:
        u: torch.Tensor = solver.solve(problem).ys[:, -1]
        return u

    return solve


def torchode_forward(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    timed = TimeOfEach(field)
    return of_torch(TORCHODE, timed, forward(torchode_solve(timed, x)))


def torchode_training(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    timed = TimeOfEach(field)
    return of_torch(TORCHODE, timed, training(timed, torchode_solve(timed, x)))


def diffrax_contestant(field: LayerDynamics, x: torch.Tensor, gradient: bool) -> Contestant:
    jax: Any = importlib.import_module("jax")
    diffrax: Any = importlib.import_module("diffrax")
    # on a GPU it would multiply in TF32, whose rounding its error estimate takes for error
    jax.config.update("jax_default_matmul_precision", "highest")
    weights = tuple(jax.numpy.asarray(w.detach().cpu().numpy()) for w in field.tensors())
    u0 = jax.numpy.asarray(x.cpu().numpy())
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    def build(counted: bool) -> Run:
        def f(t: Any, u: Any, args: Any) -> Any:
            if counted:
                jax.debug.callback(count)
            w1, t1, b1, w2, t2, b2 = args
            hidden = jax.numpy.tanh(u @ w1 + (t * t1 + b1))
            return hidden @ w2 + (t * t2 + b2)

        def solve(args: Any, u0: Any) -> Any:
            controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
            term, solver = diffrax.ODETerm(f), diffrax.Tsit5()
            # differentiated by its default adjoint, RecursiveCheckpointAdjoint
            solution = diffrax.diffeqsolve(
                term, solver, 0.0, 1.0, None, u0, args, stepsize_controller=controller
            )
            return solution.ys[-1]

        def loss(args: Any, u0: Any) -> Any:
            return (solve(args, u0) ** 2).mean()

        compiled = jax.jit(jax.value_and_grad(loss) if gradient else solve)
        return lambda: jax.block_until_ready(compiled(weights, u0))

    def count_calls() -> int:
        build(counted=True)()
        jax.effects_barrier()
        return calls

    return Contestant(DIFFRAX, build(counted=False), count_calls)


def diffrax_forward(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    return diffrax_contestant(field, x, gradient=False)


def diffrax_training(field: LayerDynamics, x: torch.Tensor) -> Contestant:
    return diffrax_contestant(field, x, gradient=True)


CONTESTS = (
    Contest(
        "forward solve",
        F_ALONE,
        True,
        (
            f_alone,
            pylocalreg_forward(PYLOCALREG),
            pylocalreg_forward(COMPILED, compile=True),
            pylocalreg_forward(FAST, **FAST_OPTIONS),
            pylocalreg_forward(OWN_COMPILED, own=True, compile=True),
            pylocalreg_forward(OWN_FAST, own=True, **FAST_OPTIONS),
            torchdiffeq_forward,
            torchdiffeq_forward_equal,
            torchode_forward,
            diffrax_forward,
        ),
        (
            Target("forward at most 1.25 x NFE calls of f", PYLOCALREG, F_ALONE, 1.25),
            Target("compiled at most 1.10 x NFE calls of f", COMPILED, F_ALONE, 1.10),
            Target("compiled forward at most 2 x diffrax's", COMPILED, DIFFRAX, 2.0, shape="small"),
            Target("forward by the fast options at most 2 x diffrax's", FAST, DIFFRAX, 2.0, shape="small"),
        ),
    ),
    Contest(
        "training step (calls: forward and backward)",
        DISCRETE,
        False,
        (
            pylocalreg_training(DISCRETE, adjoint="discrete"),
            pylocalreg_training(KEEPING, adjoint="discrete", keep_stages=True),
            pylocalreg_training(COMPILED_DISCRETE, adjoint="discrete", compile=True),
            pylocalreg_training(FAST_DISCRETE, adjoint="discrete", **FAST_OPTIONS),
            pylocalreg_training(OWN, own=True, adjoint="discrete"),
            pylocalreg_training(OWN_COMPILED, own=True, adjoint="discrete", compile=True),
            pylocalreg_training(OWN_FAST, own=True, adjoint="discrete", **FAST_OPTIONS),
            pylocalreg_training(INTERPOLATING, adjoint="interpolating"),
            torchdiffeq_training,
            torchdiffeq_training_equal,
            torchdiffeq_adjoint,
            torchode_training,
            diffrax_training,
        ),
        (
            Target("training step by the fast options at most odeint's", FAST_DISCRETE, TORCHDIFFEQ, 1.0),
            Target("training step by the fast options at most torchode's", FAST_DISCRETE, TORCHODE, 1.0),
            Target("training step by the fast options at most diffrax's", FAST_DISCRETE, DIFFRAX, 1.0),
            Target("by default at most 1/2 of odeint's at equal error", DISCRETE, TORCHDIFFEQ_EQUAL, 0.5),
            Target(
                "training step by the fast options at most 2.5 x diffrax's",
                FAST_DISCRETE,
                DIFFRAX,
                2.5,
                shape="small",
            ),
            Target(
                "compiled training step at most 2.5 x diffrax's",
                COMPILED_DISCRETE,
                DIFFRAX,
                2.5,
                shape="small",
            ),
        ),
    ),
    Contest(
        "regularized training step (calls: forward and backward)",
        VANILLA,
        False,
        (
            pylocalreg_training(VANILLA),
            regularized(BIASED, sampling="biased"),
            regularized(UNBIASED, sampling="unbiased"),
            regularized(THROUGH_STATE, sampling="biased", through_state=True),
            pylocalreg_training(COMPILED_VANILLA, compile=True),
            regularized(COMPILED_BIASED, sampling="biased", compile=True),
            regularized(COMPILED_UNBIASED, sampling="unbiased", compile=True),
        ),
        (
            Target("biased at most 1.06 x vanilla", BIASED, VANILLA, 1.06),
            Target("compiled: biased at most 1.06 x vanilla", COMPILED_BIASED, COMPILED_VANILLA, 1.06),
        ),
    ),
)


def paired_ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round, from which slow spells of the machine cancel."""
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def finish() -> None:
    """Waits for a GPU's work, if there is one: a call returns before it is done."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def clock_of(device: torch.device) -> Callable[[], float]:
    """CPU time where one thread does all the work: others on the machine do not count in it."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def in_turns(
    contestants: Sequence[Contestant], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of each contestant in each round; the first in turn changes from round to round."""
    ms: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for contestant in contestants:
        contestant.run()
    for i in range(rounds):
        first = i % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            time.sleep(SETTLE)
            finish()
            start = clock()
            contestant.run()
            finish()
            ms[contestant.name].append(1e3 * (clock() - start))
    return ms


def installed(contest: Contest, field: LayerDynamics, x: torch.Tensor) -> list[Contestant]:
    contestants = []
    for build in contest.contestants:
        try:
            contestants.append(build(field, x))
        except ImportError as missing:
            print(f"{contest.title}: {build.__name__} skipped, {missing.name} is not installed")
    return contestants


def hold(contest: Contest, field: LayerDynamics, x: torch.Tensor, rounds: int, shape: str) -> dict[str, Any]:
    contestants = installed(contest, field, x)
    calls = {contestant.name: contestant.calls() for contestant in contestants}
    ms = in_turns(contestants, rounds, clock_of(x.device))
    rows = [
        Row(
            contestant.name,
            calls[contestant.name],
            statistics.median(ms[contestant.name]),
            paired_ratio(ms[contestant.name], ms[contest.reference]),
            relative_error(contestant.run(), field, x)
            if contest.shows_error and contestant.name != F_ALONE
            else None,
        )
        for contestant in contestants
    ]
    return {
        "contest": contest.title,
        "rows": [asdict(row) for row in rows],
        "targets": [target.verdict(ms) for target in contest.targets if target.shape == shape],
    }


def scaled(field: LayerDynamics, factor: float) -> LayerDynamics:
    other = copy.deepcopy(field)
    with torch.no_grad():
        other.p.mul_(factor)
    return other


def trained_like(field: LayerDynamics, x: torch.Tensor) -> tuple[float, LayerDynamics]:
    """The smallest of a few factors on the weights with which a solve is as dear as after training."""
    with torch.no_grad():
        for quarters in range(4, 24):
            other = scaled(field, quarters / 4)
            if pylocalreg_node(other)(x).stats.nfe >= TRAINED_NFE:
                return quarters / 4, other
    raise RuntimeError(f"no factor up to 6 brings a solve to {TRAINED_NFE} calls of f")


def print_results(title: str, results: Iterable[dict[str, Any]]) -> None:
    for result in results:
        print(f"\n{title}: {result['contest']}")
        print(f"  {'contestant':<34}{'NFE':>6}{'ms (median)':>14}{'ratio':>9}{'error':>10}")
        for row in result["rows"]:
            error = "" if row["error"] is None else f"{row['error']:.0e}"
            print(
                f"  {row['contestant']:<34}{row['calls']:>6}{row['ms']:>14.4g}{row['ratio']:>9.2f}{error:>10}"
            )
        for target in result["targets"]:
            measured = "" if target["measured"] is None else f" ({target['measured']:.2f})"
            print(f"  {target['verdict']:<8}{target['target']}{measured}")


def installed_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def setting_of(
    device: torch.device, rounds: int, packages: Sequence[str] = PACKAGES
) -> dict[str, str | int | dict[str, str]]:
    """What figures depend on beside the code: machine, device, versions."""
    return {
        "machine": machine(),
        "device": device_name(device),
        "clock": "CPU time" if clock_of(device) is time.process_time else "wall time",
        "versions": installed_versions(packages),
        "rounds": rounds,
    }


def machine() -> str:
    """The processor by its maker's name, where the system tells it, and its cores."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor()}, {os.cpu_count()} cores"


def on_threads(count: int) -> None:
    """PyTorch, and what is imported after this, on so many threads: jax counts the cores that it may use."""
    torch.set_num_threads(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description="pylocalreg beside its peers on two networks")
    parser.add_argument("--shape", choices=SHAPES, default="mnist")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each contestant")
    parser.add_argument("--quick", action="store_true", help="three rounds, to see that everything runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; jax takes the device it finds")
    parser.add_argument("--json", type=Path, help="where to write the figures too")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds

    on_threads(options.threads)
    torch.manual_seed(0)
    shape = SHAPES[options.shape]
    layers = plr.TimeDependent(
        plr.Dense(shape.width, shape.hidden, "tanh"), plr.Dense(shape.hidden, shape.width)
    )
    initial = LayerDynamics(layers).to(options.device)
    x = torch.rand(shape.batch, shape.width).to(options.device)
    factor, trained = trained_like(initial, x)
    setting = setting_of(x.device, rounds)
    print(", ".join(f"{name} {number}" for name, number in installed_versions().items()))
    print(f"{setting['machine']}, {setting['device']}, {rounds} rounds")

    scales = {"as initialized": initial, f"trained-like (weights x {factor:g})": trained}
    results = {}
    for title, field in scales.items():
        results[title] = [hold(contest, field, x, rounds, options.shape) for contest in CONTESTS]
        print_results(title, results[title])
        if options.json:  # a run on a borrowed device may end before the second
            figures = {**setting, "shape": shape.title, "scales": results}
            write_text(options.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
