"""pylocalreg beside torchsde and diffrax on a neural SDE, at equal error: ``python -m benchmarks.sde``.

An Ito SDE with a state of 128 x 32, a drift with one hidden layer of 64 tanh and a diagonal diffusion
sin(a u + b) / 4, t in [0, 1], float64. The strong error of a contestant is that of u(1) against its own
solution with far smaller steps over the same Brownian path, root mean square over the batch. Each contestant
gets the coarsest steps of a ladder with which its error comes below the target's; then all run in turns, a
new path in every run. A training step is the solve and the gradient of its mean square by all parameters.
"""

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.networks import (
    Contestant,
    clock_of,
    in_turns,
    installed_versions,
    on_threads,
    paired_ratio,
    setting_of,
)
from pylocalreg.experiments.files import write_text

BATCH, WIDTH, HIDDEN = 128, 32, 64
LADDER = tuple(sorted({round(2 * 2 ** (i / 2)) for i in range(17)}))  # 2 to 512
FINEST = 1024
SRK = "torchsde srk"
PACKAGES = ("torch", "torchsde", "diffrax", "jax")

Size = int
"""How fine the steps are: 1/dt with fixed steps, 1/tolerance with adaptive ones."""


class Drift(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, WIDTH)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = self.outer(torch.tanh(self.inner(u)))
        return k


class Diffusion(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(1 + torch.rand(WIDTH))
        self.b = torch.nn.Parameter(torch.rand(WIDTH))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.a * u + self.b) / 4


@dataclass(frozen=True)
class Model:
    drift: Drift
    diffusion: Diffusion
    u0: torch.Tensor

    @property
    def params(self) -> list[torch.nn.Parameter]:
        return [*self.drift.parameters(), *self.diffusion.parameters()]


@dataclass(frozen=True)
class Peer:
    """A library's method: its strong error by the steps' size, its solve and its training step."""

    name: str
    error: Callable[[Size], float]
    solve: Callable[[Size], Callable[[], object]]
    train: Callable[[Size], Callable[[], object]]


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


FAST: dict[str, Any] = {"controller": "PID", "dt": "last", "landing": "even"}


def pylocalreg(solver: str, adaptive: bool, fast: bool = False) -> Callable[[Model], Peer]:
    """``fast``: with the options of docs/steps.md; each solve but the first has the last one's first step."""

    def build(model: Model) -> Peer:
        def node(size: Size) -> plr.NeuralSDE:
            steps: dict[str, Any] = {"abstol": 1 / size, "reltol": 1 / size} if adaptive else {"dt": 1 / size}
            options: dict[str, Any] = {"solver": solver, "adaptive": adaptive, "engine": "torch"}
            return plr.NeuralSDE(model.drift, model.diffusion, **steps, **options, **(FAST if fast else {}))

        finest = plr.NeuralSDE(
            model.drift, model.diffusion, solver="SRIW1", dt=1 / FINEST, adaptive=False, engine="torch"
        )
        with torch.no_grad():
            exact = finest(model.u0)

        def error(size: Size) -> float:
            one = node(size)
            with torch.no_grad():
                one(model.u0)
                return rms(one(model.u0, noise=exact.noise).u - exact.u)

        def solve(size: Size) -> Callable[[], object]:
            one = node(size)
            return torch.no_grad()(lambda: one(model.u0))

        def train(size: Size) -> Callable[[], object]:
            one = node(size)
            return lambda: torch.autograd.grad(one(model.u0).u.square().mean(), model.params)

        kind = "adaptive, PID" if fast else "adaptive" if adaptive else "fixed"
        return Peer(f"pylocalreg {solver}, {kind}", error, solve, train)

    return build


def torchsde(method: str) -> Callable[[Model], Peer]:
    def build(model: Model) -> Peer:
        library: Any = importlib.import_module("torchsde")

        class Sde(torch.nn.Module):
            noise_type, sde_type = "diagonal", "ito"

            def __init__(self) -> None:
                super().__init__()
                self.drift, self.diffusion = model.drift, model.diffusion

            def f(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
                k: torch.Tensor = self.drift(t, u)
                return k

            def g(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
                k: torch.Tensor = self.diffusion(t, u)
                return k

        sde, ts = Sde(), torch.tensor([0.0, 1.0], dtype=torch.float64)

        def end(size: Size, method: str, path: Any = None) -> torch.Tensor:
            states: torch.Tensor = library.sdeint(sde, model.u0, ts, bm=path, method=method, dt=1 / size)
            return states[-1]

        path = library.BrownianInterval(
            0.0,
            1.0,
            size=tuple(model.u0.shape),
            dtype=torch.float64,
            entropy=0,
            levy_area_approximation="space-time",
        )
        with torch.no_grad():
            exact = end(FINEST, "srk", path)

        def error(size: Size) -> float:
            with torch.no_grad():
                return rms(end(size, method, path) - exact)

        def solve(size: Size) -> Callable[[], object]:
            return torch.no_grad()(lambda: end(size, method))

        def train(size: Size) -> Callable[[], object]:
            return lambda: torch.autograd.grad(end(size, method).square().mean(), model.params)

        return Peer(f"torchsde {method}", error, solve, train)

    return build


def diffrax_slow_rk(model: Model) -> Peer:
    """Its method of order 1.5, for Stratonovich's sense: the drift is corrected by hand."""
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    library: Any = importlib.import_module("diffrax")
    linear: Any = importlib.import_module("lineax")
    numpy = jax.numpy
    weights = tuple(numpy.asarray(p.detach().numpy()) for p in model.params)
    u0 = numpy.asarray(model.u0.numpy())

    def f(t: Any, u: Any, args: Any) -> Any:
        w1, b1, w2, b2, a, b = args
        correction = a * numpy.sin(a * u + b) * numpy.cos(a * u + b) / 32
        return numpy.tanh(u @ w1.T + b1) @ w2.T + b2 - correction

    def g(t: Any, u: Any, args: Any) -> Any:
        return linear.DiagonalLinearOperator(numpy.sin(args[4] * u + args[5]) / 4)

    def end(size: Size, key: Any, args: Any) -> Any:
        shape, area = jax.ShapeDtypeStruct(u0.shape, u0.dtype), library.SpaceTimeTimeLevyArea
        path = library.VirtualBrownianTree(0.0, 1.0, tol=0.5 / FINEST, shape=shape, key=key, levy_area=area)
        terms = library.MultiTerm(library.ODETerm(f), library.ControlTerm(g, path))
        solver, most = library.SlowRK(), 2 * FINEST
        return library.diffeqsolve(terms, solver, 0.0, 1.0, 1 / size, u0, args, max_steps=most).ys[-1]

    key = jax.random.PRNGKey(0)
    exact = torch.tensor(jax.jit(lambda: end(FINEST, key, weights))().tolist(), dtype=torch.float64)

    def error(size: Size) -> float:
        u = jax.jit(lambda: end(size, key, weights))()
        return rms(torch.tensor(u.tolist(), dtype=torch.float64) - exact)

    def timed(function: Callable[[Any, Any], Any]) -> Callable[[], object]:
        compiled, keys = jax.jit(function), iter(jax.random.split(key, 1000))
        return lambda: jax.block_until_ready(compiled(next(keys), weights))

    def solve(size: Size) -> Callable[[], object]:
        return timed(lambda key, args: end(size, key, args))

    def train(size: Size) -> Callable[[], object]:
        return timed(lambda key, args: jax.grad(lambda a: (end(size, key, a) ** 2).mean())(args))

    return Peer("diffrax SlowRK", error, solve, train)


PEERS: tuple[Callable[[Model], Peer], ...] = (
    pylocalreg("SRIW1", adaptive=False),
    pylocalreg("SRIW1", adaptive=True),
    pylocalreg("SRIW1", adaptive=True, fast=True),
    pylocalreg("SOSRI2", adaptive=True, fast=True),
    pylocalreg("SOSRI", adaptive=False),
    pylocalreg("SOSRI2", adaptive=False),
    pylocalreg("RKMilCommute", adaptive=False),
    torchsde("srk"),
    torchsde("milstein"),
    diffrax_slow_rk,
)


@dataclass(frozen=True)
class Fitted:
    peer: Peer
    size: Size
    error: float


def fit(peer: Peer, target: float) -> Fitted | None:
    """The coarsest steps that come to the target; None where none of the ladder does."""
    for size in LADDER:
        error = peer.error(size)
        if error <= target:
            return Fitted(peer, size, error)
    return None


def built(model: Model) -> list[Peer]:
    peers = []
    for build in PEERS:
        try:
            peers.append(build(model))
        except ImportError as missing:
            print(f"a peer is skipped: {missing.name} is not installed")
    return peers


def hold(peers: Sequence[Peer], target: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each peer that comes to the target: size, error, times and ratios to torchsde's srk."""
    fitted = [found for peer in peers if (found := fit(peer, target)) is not None]
    times = {
        kind: in_turns(
            [Contestant(x.peer.name, getattr(x.peer, kind)(x.size), lambda: 0) for x in fitted],
            rounds,
            clock_of(torch.device("cpu")),
        )
        for kind in ("solve", "train")
    }
    rows = []
    for x in fitted:
        row: dict[str, Any] = {"peer": x.peer.name, "size": x.size, "error": x.error}
        for kind, ms in times.items():
            row[f"{kind}_ms"] = median(ms[x.peer.name])
            row[f"{kind}_ratio"] = paired_ratio(ms[x.peer.name], ms[SRK]) if SRK in ms else None
        rows.append(row)
    return rows


def print_rows(target: float, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\nstrong error at most {target:g}; ratios to {SRK}")
    head = f"{'1/dt, 1/tol':>12}{'error':>10}{'solve ms':>10}{'ratio':>7}{'train ms':>10}{'ratio':>7}"
    print(f"  {'':<32}{head}")
    for row in rows:
        ratios = ["" if row[kind] is None else f"{row[kind]:.2f}" for kind in ("solve_ratio", "train_ratio")]
        print(
            f"  {row['peer']:<32}{row['size']:>12}{row['error']:>10.1e}{row['solve_ms']:>10.1f}{ratios[0]:>7}"
            f"{row['train_ms']:>10.1f}{ratios[1]:>7}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="pylocalreg beside its peers on a neural SDE")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each contestant")
    parser.add_argument("--targets", type=float, nargs="+", default=[1e-3, 2e-4], help="strong errors")
    parser.add_argument("--json", type=Path, help="where to write the figures too")
    options = parser.parse_args()
    on_threads(1)
    torch.manual_seed(0)
    model = Model(Drift().double(), Diffusion().double(), torch.randn(BATCH, WIDTH, dtype=torch.float64))
    print(installed_versions(PACKAGES))
    peers = built(model)
    results = {}
    for target in options.targets:
        results[f"{target:g}"] = rows = hold(peers, target, options.rounds)
        print_rows(target, rows)
    if options.json:
        setting = setting_of(model.u0.device, options.rounds, PACKAGES)
        write_text(options.json, json.dumps({**setting, "targets": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
