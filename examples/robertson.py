"""Where the steps go: Robertson's stiff reactions solved by Rodas5 (the picture of the paper's Figure 2).

The steps crowd where the solution changes in the logarithm of time, so a time drawn uniformly from the span
(unbiased) and one drawn from the starts of the steps (biased) see different parts of it.

Run: python examples/robertson.py [results/robertson.png]
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import pylocalreg as plr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

END = 1e5
DRAWS = 400
SPECIES = (("A", 1.0, "tab:blue"), ("B", 1e4, "tab:orange"), ("C", 1.0, "tab:green"))


def robertson(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Robertson 1966: A -> B, B + B -> B + C, B + C -> A + C."""
    a, b, c = u.unbind(-1)
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def solve() -> plr.Solution:
    node = plr.NeuralODE(robertson, (0.0, END), solver="Rodas5", abstol=1e-10, reltol=1e-6, engine="torch")
    with torch.no_grad():
        solution: plr.Solution = node(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), dense=True)
    return solution


def draw(solution: plr.Solution, path: Path) -> None:
    steps, rng = solution.steps, np.random.default_rng(0)
    times = np.geomspace(1e-6, END, 400)
    u = torch.stack([solution(float(t)) for t in times]).numpy()
    shown = steps.t[steps.t >= times[0]]
    at_steps = torch.stack([solution(float(t)) for t in shown]).numpy()
    unbiased = rng.uniform(0, END, DRAWS)
    biased = rng.choice(steps.t, DRAWS)

    figure, (species, sizes, draws) = plt.subplots(
        3, 1, figsize=(8, 7.5), sharex=True, height_ratios=(3, 2, 1.4), layout="constrained"
    )
    for i, (name, scale, colour) in enumerate(SPECIES):
        label = name if scale == 1 else f"{name} $\\times 10^{{{round(np.log10(scale))}}}$"
        species.plot(times, scale * u[:, i], color=colour, label=label)
        species.plot(shown, scale * at_steps[:, i], ".", color=colour, markersize=5)
    species.set(ylabel="concentration", title=f"Robertson's reactions, Rodas5: {len(steps.t)} accepted steps")
    species.legend(loc="center left")
    sizes.loglog(shown, steps.dt[steps.t >= times[0]], ".-", color="black", linewidth=0.8)
    sizes.set(ylabel="step size dt", xscale="log")
    bins = np.geomspace(times[0], END, 45)
    style = {"bins": bins, "weights": np.full(DRAWS, 100 / DRAWS), "alpha": 0.75}
    draws.hist(biased, color="tab:purple", label=r"biased: $\tau$ from the step starts", **style)
    draws.hist(unbiased, color="tab:red", label=r"unbiased: $\tau$ uniform in time", **style)
    draws.set(xlabel="time t", ylabel="% of draws", xlim=(times[0], END))
    draws.legend(loc="upper left")
    for axes in (species, sizes, draws):
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "results/robertson.png")
    solution = solve()
    draw(solution, target)
    print(f"{solution.stats}; picture in {target}")
