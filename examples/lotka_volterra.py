"""The rates of a Lotka-Volterra system, written in Julia as f!(du, u, p, t), found from noisy measurements.

Run: python examples/lotka_volterra.py (needs Julia, see docs/julia.md)
"""

from pathlib import Path

import torch

import pylocalreg as plr

SYSTEM = Path(__file__).parent / "lotka_volterra.jl"
RATES = {"birth": 1.5, "hunt": 1.0, "death": 3.0, "gain": 1.0}
GUESS = {"birth": 1.2, "hunt": 0.8, "death": 2.4, "gain": 0.9}
TIMES = torch.linspace(0.2, 5.0, 25, dtype=torch.float64)
START = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)


def node_with(rates: dict[str, float]) -> plr.NeuralODE:
    dynamics = plr.julia.function("lotka_volterra!", rates, file=SYSTEM).double()
    return plr.NeuralODE(dynamics, (0.0, 5.0), engine="julia", saveat=TIMES, abstol=1e-8, reltol=1e-8)


def main() -> None:
    noise = torch.randn((len(TIMES), 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        measured = node_with(RATES)(START).u * (1 + 0.02 * noise)
    node = node_with(GUESS)
    optimizer = torch.optim.LBFGS(node.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (node(START).u - measured).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert isinstance(node.dynamics, plr.julia.JuliaModel)
    found = node.dynamics.named_views()
    for name, rate in RATES.items():
        print(
            f"{name}: {float(found[name]):.3f}, from {GUESS[name]} (the measurements were made with {rate})"
        )


if __name__ == "__main__":
    main()
