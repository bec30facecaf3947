"""The Julia engine: what a crossing costs, a small problem beside diffrax, MNIST shapes beside torchdiffeq.

python -m benchmarks.julia; with two threads of Julia, of its BLAS and of PyTorch
`PYTHON_JULIACALL_THREADS=2 OPENBLAS_NUM_THREADS=2 python -m benchmarks.julia 2`. What is compared runs by
turns.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.networks import forward, paired_ratio, training_step
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.julia_engine.start import start

STEPS = ("julia step", "julia keeping step", "torch step", "torch keeping step")
BATCH, FEATURES, HIDDEN, TOL = 512, 784, 100, 1e-6


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median of the times of a call, after two unmeasured ones."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def crossing() -> None:
    """A solve of a tiny model from Python less the same solve timed inside Julia."""
    node = plr.NeuralODE(plr.Chain(plr.Dense(2, 2, "tanh")), engine="julia", dt=0.5, adaptive=False)
    u0 = torch.zeros(1, 2)
    with torch.no_grad():
        outside = seconds(lambda: node(u0), 500)
    inside = start().main.seval(
        """
        begin
            local layers = (LocalReg.lux_layer("dense", 2, 2, 0, "tanh", false),)
            local f = LocalReg.Dynamics(LocalReg.Layers(layers, false, 0, (nothing,), true))
            local options = LocalReg.Options{Float32}("Tsit5", (0f0, 1f0), 1f-6, 1f-6, 5f-1, false, 10^6)
            local work() = LocalReg.solve(f, zeros(Float32, 2, 1), zeros(Float32, 6), options, Float32[1],
                LocalReg.Keep{Float32}())
            work(); work()
            sort!([@elapsed(work()) for _ in 1:500])[250]
        end
        """
    )
    print(f"crossing: {(outside - inside) * 1e6:.0f} us a solve beyond the solve's own {inside * 1e6:.0f} us")


def call_of_f(p: torch.Tensor, u0: torch.Tensor) -> float:
    """One call of the dynamics as a Lux model."""
    main = start().main
    time_of = main.seval(
        f"""
        (n_in, n_hidden, n_batch) -> begin
            layers = (LocalReg.lux_layer("dense", n_in, n_hidden, 0, "tanh", true),
                LocalReg.lux_layer("dense", n_hidden, n_in, 0, "identity", true))
            model = LocalReg.Layers(layers, true, 0, (nothing, nothing), true)
            n = sum(sum(prod, values(LocalReg.parameters(layer))) for layer in layers)
            p, u = randn(Float32, n) ./ 30, randn(Float32, n_in, n_batch)
            model(u, p, 0.5f0)
            sort!([@elapsed(model(u, p, 0.5f0)) for _ in 1:{21}])[11]
        end
        """
    )
    return float(time_of(FEATURES, HIDDEN, u0.shape[0]))


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Times of all, one after the other in every round, so that whatever else runs here slows all alike."""
    for run in runs.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    return paired_ratio(times[ours], times[theirs])


def mnist_shape(rounds: int = 15) -> None:
    import torchdiffeq

    torch.manual_seed(0)
    dynamics = plr.TimeDependent(plr.Dense(FEATURES, HIDDEN, "tanh"), plr.Dense(HIDDEN, FEATURES))
    nodes = {
        name: plr.NeuralODE(
            dynamics, engine=name.split()[0], keep_stages="keeping" in name, abstol=TOL, reltol=TOL
        )
        for name in ("torch", "torch keeping", "julia", "julia keeping")
    }
    for node in nodes.values():
        node.dynamics.load_state_dict(nodes["torch"].dynamics.state_dict())
    u0, cotangent, span = torch.randn(BATCH, FEATURES), torch.randn(BATCH, FEATURES), torch.tensor([0.0, 1.0])
    runs: dict[str, Callable[[], Any]] = {}
    for name, node in nodes.items():
        runs[f"{name} forward"] = forward(functools.partial(node, u0))
        runs[f"{name} step"] = training_step(node, lambda node=node: (node(u0).u * cotangent).sum())  # type: ignore[misc]
    for name in ("odeint", "odeint_adjoint"):
        solve = functools.partial(
            getattr(torchdiffeq, name), nodes["torch"].dynamics, u0, span, method="dopri5", rtol=TOL, atol=TOL
        )
        loss = functools.partial(lambda solve: (solve()[-1] * cotangent).sum(), solve)
        runs[f"{name} step"] = training_step(nodes["torch"], loss)
    times = interleaved(runs, rounds)
    for name, column in times.items():
        print(f"{name}: median {statistics.median(column):.3f} s, least {min(column):.3f}")
    nfe = runs["julia forward"]().stats.nfe
    p = nodes["julia"].get_parameter("dynamics.p")
    one_call = call_of_f(p.detach(), u0)
    in_calls = min(times["julia forward"]) / (nfe * one_call)
    print(f"julia forward / ({nfe} NFE x one call of f in Lux): {in_calls:.2f}")
    pairs = [("julia forward", "torch forward"), ("julia step", "torch step")]
    pairs += [("julia keeping step", "torch keeping step")]
    pairs += [(ours, theirs) for theirs in ("odeint step", "odeint_adjoint step") for ours in STEPS]
    for ours, theirs in pairs:
        of_least = min(times[ours]) / min(times[theirs])
        print(f"{ours} / {theirs}: {ratio(times, ours, theirs):.2f}, of the least times {of_least:.2f}")


def sde_shape(rounds: int = 15) -> None:
    """The paper's neural SDE on MNIST, without what stands before and after it."""
    torch.manual_seed(0)
    drift = plr.TimeDependent(plr.Dense(32, 64, "tanh"), plr.Dense(64, 32))
    diffusion = plr.Chain(plr.Dense(32, 32))
    runs: dict[str, Callable[[], Any]] = {}
    u0, state = torch.randn(BATCH, 32), None
    for engine in ("torch", "julia"):
        generator = torch.Generator().manual_seed(0)
        node = plr.NeuralSDE(drift, diffusion, engine=engine, abstol=0.14, reltol=0.14, generator=generator)
        state = state or node.state_dict()
        node.load_state_dict(state)
        runs[f"{engine} forward"] = forward(functools.partial(node, u0))
        runs[f"{engine} step"] = training_step(node, lambda node=node: node(u0).u.square().mean())  # type: ignore[misc]
    times = interleaved(runs, rounds)
    ratios = [ratio(times, f"julia {kind}", f"torch {kind}") for kind in ("forward", "step")]
    print(f"SDE, julia / torch: forward {ratios[0]:.2f}, training step {ratios[1]:.2f}")


def small_problem() -> None:
    """32 x 2, 50 hidden, tolerance 1e-5: what stands around the steps counts. diffrax's solve is compiled."""
    tol = 1e-5
    torch.manual_seed(0)
    dynamics = plr.Chain(plr.Dense(2, 50, "tanh"), plr.Dense(50, 2))
    node = plr.NeuralODE(dynamics, engine="julia", abstol=tol, reltol=tol)
    u0 = torch.randn(32, 2)

    runs: dict[str, Callable[[], Any]] = {
        "julia forward": forward(functools.partial(node, u0)),
        "julia step": training_step(node, lambda: node(u0).u.square().mean()),
    }
    runs |= _of_diffrax(node, u0, tol)
    times = interleaved(runs, 200)
    for name, column in times.items():
        print(
            f"small, {name}: median {1e3 * statistics.median(column):.2f} ms, least {1e3 * min(column):.2f}"
        )
    for kind in ("forward", "step"):
        quotient = ratio(times, f"julia {kind}", f"diffrax {kind}")
        print(f"small, julia / diffrax: {kind} {quotient:.2f} ({node(u0).stats.nfe} NFE)")


def _of_diffrax(node: plr.NeuralODE, u0: torch.Tensor, tol: float) -> dict[str, Callable[[], Any]]:
    import diffrax
    import jax
    import jax.numpy as jnp

    dynamics = node.dynamics
    assert isinstance(dynamics, LayerDynamics)
    weights = [jnp.asarray(x.detach().numpy()) for x in dynamics.tensors()]
    start = jnp.asarray(u0.numpy())

    def f(t: Any, u: Any, w: Any) -> Any:
        return jnp.tanh(u @ w[0] + w[1]) @ w[2] + w[3]

    def solve(w: Any, u: Any) -> Any:
        controller = diffrax.PIDController(rtol=tol, atol=tol)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, 1.0, None, u, args=w, stepsize_controller=controller
        ).ys[-1]

    forward = jax.jit(solve)
    step = jax.jit(jax.value_and_grad(lambda w, u: jnp.mean(solve(w, u) ** 2)))
    return {
        "diffrax forward": lambda: jax.block_until_ready(forward(weights, start)),
        "diffrax step": lambda: jax.block_until_ready(step(weights, start)),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    crossing()
    small_problem()
    mnist_shape()
    sde_shape()
