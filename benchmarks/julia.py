"""The Julia engine: what a crossing costs, and the MNIST shapes beside torchdiffeq and the embedded engine.

python -m benchmarks.julia
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import pylocalreg as plr
from pylocalreg.engines.julia_engine.start import start

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


def mnist_shape() -> None:
    torch.manual_seed(0)
    dynamics = plr.TimeDependent(plr.Dense(FEATURES, HIDDEN, "tanh"), plr.Dense(HIDDEN, FEATURES))
    nodes = {
        engine: plr.NeuralODE(dynamics, engine=engine, abstol=TOL, reltol=TOL)
        for engine in ("torch", "julia")
    }
    nodes["julia"].dynamics.load_state_dict(nodes["torch"].dynamics.state_dict())
    u0 = torch.randn(BATCH, FEATURES)
    cotangent = torch.randn(BATCH, FEATURES)

    def train(node: plr.NeuralODE) -> None:
        node.zero_grad()
        (node(u0).u * cotangent).sum().backward()

    p = nodes["julia"].get_parameter("dynamics.p")
    one_call = call_of_f(p.detach(), u0)
    forward, step = {}, {}
    for engine, node in nodes.items():
        with torch.no_grad():
            forward[engine] = seconds(lambda node=node: node(u0), 7)  # type: ignore[misc]
            nfe = node(u0).stats.nfe
        step[engine] = seconds(lambda node=node: train(node), 7)  # type: ignore[misc]
        print(f"{engine}: {nfe} NFE, forward {forward[engine]:.3f} s, training step {step[engine]:.3f} s")
    print(f"julia forward / (NFE x one call of f in Lux): {forward['julia'] / (nfe * one_call):.2f}")
    ratios = [times["julia"] / times["torch"] for times in (forward, step)]
    print(f"julia / torch: forward {ratios[0]:.2f}, training step {ratios[1]:.2f}")
    _against_torchdiffeq(nodes["torch"], u0, cotangent, step)


def sde_shape() -> None:
    """The paper's neural SDE on MNIST, without what stands before and after it."""
    torch.manual_seed(0)
    drift = plr.TimeDependent(plr.Dense(32, 64, "tanh"), plr.Dense(64, 32))
    diffusion = plr.Chain(plr.Dense(32, 32))
    forward, step = {}, {}
    u0, state = torch.randn(BATCH, 32), None
    for engine in ("torch", "julia"):
        generator = torch.Generator().manual_seed(0)
        node = plr.NeuralSDE(drift, diffusion, engine=engine, abstol=0.14, reltol=0.14, generator=generator)
        state = state or node.state_dict()
        node.load_state_dict(state)

        def train(node: plr.NeuralSDE = node) -> None:
            node.zero_grad()
            node(u0).u.square().mean().backward()

        with torch.no_grad():
            forward[engine] = seconds(lambda node=node: node(u0), 15)  # type: ignore[misc]
        step[engine] = seconds(train, 15)
    ratios = [times["julia"] / times["torch"] for times in (forward, step)]
    print(f"SDE, julia / torch: forward {ratios[0]:.2f}, training step {ratios[1]:.2f}")


def _against_torchdiffeq(
    node: plr.NeuralODE, u0: torch.Tensor, cotangent: torch.Tensor, step: dict[str, float]
) -> None:
    import torchdiffeq

    times = torch.tensor([0.0, 1.0])
    for name in ("odeint", "odeint_adjoint"):
        solve = getattr(torchdiffeq, name)

        def train(solve: Any = solve) -> None:
            node.zero_grad()
            u = solve(node.dynamics, u0, times, method="dopri5", rtol=TOL, atol=TOL)[-1]
            (u * cotangent).sum().backward()

        theirs = seconds(train, 5)
        print(f"torchdiffeq {name}: step {theirs:.3f} s; julia / it {step['julia'] / theirs:.2f}")


if __name__ == "__main__":
    crossing()
    mnist_shape()
    sde_shape()
