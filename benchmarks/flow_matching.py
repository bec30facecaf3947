"""Flow matching's samples at few evaluations: ``python -m benchmarks.flow_matching --data FOLDER``.

Trains the config without and with its fine-tuning by local regularization (the same run up to its start),
and samples each model from the same noise at a few budgets of evaluations: by an adaptive solver, with the
tightest tolerance that keeps to the budget, and by fixed steps. The distance is the root mean square over all
pixels, of a range of 2, to the samples of a tight solve of the same model.
"""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch

import pylocalreg as plr
from pylocalreg.experiments import config, data, generators, runs, tasks
from pylocalreg.experiments.checkpoint import load_weights
from pylocalreg.experiments.commands import config_changes
from pylocalreg.experiments.config import Config
from pylocalreg.experiments.distributed import Team
from pylocalreg.experiments.files import replacing
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.tasks.mnist_node import PIXELS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METHODS = {"vanilla": "without fine-tuning", "local_unbiased": "fine-tuned"}
ADAPTIVE = ("BS3", "Tsit5")
FIXED = {"Euler": 1, "RK4": 4}
"""Evaluations a step."""

BUDGETS = (10, 20, 40)
TOLERANCES = [10 ** (-k / 8) for k in range(-16, 49)]
"""From the loosest on: 100 to 1e-6."""

SIDE, SHOWN = 28, 8
"""Of an image; images in a row of the picture."""


@dataclass(frozen=True)
class Sampled:
    """Samples ``(batch, 784)`` by a solver, and what they took."""

    solver: str
    budget: int
    setting: str
    nfe: int
    samples: torch.Tensor


def sample(dynamics: torch.nn.Module, noise: torch.Tensor, **options: Any) -> plr.Solution:
    with torch.no_grad():
        solution: plr.Solution = plr.NeuralODE(dynamics, engine="torch", **options).eval()(noise)
    return solution


def adaptive(dynamics: torch.nn.Module, noise: torch.Tensor, solver: str) -> Iterator[Sampled]:
    """Of each budget the tightest tolerance whose solve keeps to it."""
    solves = []
    for tolerance in TOLERANCES:
        solves.append((tolerance, sample(dynamics, noise, solver=solver, abstol=tolerance, reltol=tolerance)))
        if solves[-1][1].stats.nfe > max(BUDGETS):
            break
    for budget in BUDGETS:
        within = [(tolerance, solution) for tolerance, solution in solves if solution.stats.nfe <= budget]
        if within:
            tolerance, solution = within[-1]
            yield Sampled(solver, budget, f"tolerance {tolerance:.2g}", solution.stats.nfe, solution.u)


def fixed(dynamics: torch.nn.Module, noise: torch.Tensor, solver: str) -> Iterator[Sampled]:
    for budget in BUDGETS:
        steps = (budget - 1) // FIXED[solver]  # and a call for the slope at the end
        solution = sample(dynamics, noise, solver=solver, dt=1 / steps)
        yield Sampled(solver, budget, f"{steps} steps", solution.stats.nfe, solution.u)


def every(dynamics: torch.nn.Module, noise: torch.Tensor) -> tuple[torch.Tensor, list[Sampled]]:
    """The samples of a tight solve, in float64, and those of every solver and budget."""
    tight = sample(copy.deepcopy(dynamics).double(), noise.double(), abstol=1e-8, reltol=1e-8).u
    found = [sampled for solver in ADAPTIVE for sampled in adaptive(dynamics, noise, solver)]
    return tight, found + [sampled for solver in FIXED for sampled in fixed(dynamics, noise, solver)]


def trained(settings: Config, folder: Path) -> tuple[Record, torch.nn.Module]:
    """The run's record, and the dynamics of its weights; a run that is done is read."""
    team = Team(0, 1, torch.device("cpu"))
    record = runs.run(settings, folder, team)
    task = tasks.build(settings, data.load(settings.data), torch.Generator())
    load_weights(folder / "weights.safetensors", task)
    dynamics = task.get_submodule("node.dynamics")
    return record, dynamics.requires_grad_(False)


def draw(rows: dict[str, torch.Tensor], columns: list[str], path: Path) -> None:
    """A row of samples each, shape ``(methods, SHOWN, 784)``: the methods side by side."""
    width = SHOWN * SIDE
    figure, axes = plt.subplots(1, len(columns), figsize=(4.6 * len(columns), 0.55 * len(rows) + 0.5))
    for i, (axis, title) in enumerate(zip(axes, columns, strict=True)):
        strips = [
            methods[i].view(SHOWN, SIDE, SIDE).permute(1, 0, 2).reshape(SIDE, width)
            for methods in rows.values()
        ]
        axis.imshow(torch.cat(strips).clamp(-1, 1).numpy(), cmap="gray", vmin=-1, vmax=1)
        middles = [SIDE * (k + 0.5) for k in range(len(rows))]
        axis.set(title=title, xticks=[], yticks=middles, yticklabels=[] if i else list(rows))
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="flow matching's samples at few evaluations")
    parser.add_argument("--config", default="flow_matching")
    parser.add_argument("--set", action="append", default=[], help="a change of it, section.key=value")
    parser.add_argument("--data", type=Path, help="a folder of MNIST's files")
    parser.add_argument("--offline", action="store_true", help="the stand-in for MNIST")
    parser.add_argument("--samples", type=int, default=64, help="of the distances' mean")
    parser.add_argument("--output", type=Path, default=Path("results/flow_matching"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = config_changes(options.set, options.data, options.offline, engine=None)

    noise = torch.randn(options.samples, PIXELS, generator=generators.seeded(0))
    table = ["| model | solver | at | NFE | distance |", "|---|---|---|---:|---:|"]
    rows: dict[str, list[torch.Tensor]] = {}
    for method, label in METHODS.items():
        settings = config.load(options.config, [*changes, f"method={method}"])
        record, dynamics = trained(settings, runs.folder_of(options.output, options.config, settings))
        print(f"{label}: test MSE {record.test_score:.4f}, test NFE {record.test_nfe:.1f}, {record.data}")
        tight, found = every(dynamics, noise)
        rows.setdefault("a tight solve", []).append(tight.float())
        for one in found:
            distance = float((one.samples - tight).square().mean().sqrt())
            table.append(f"| {label} | {one.solver} | {one.setting} | {one.nfe} | {distance:.4f} |")
            rows.setdefault(f"{one.solver}, at most {one.budget}", []).append(one.samples)
    print("\n".join(table))
    whole = {name: torch.stack(each)[:, :SHOWN] for name, each in rows.items() if len(each) == len(METHODS)}
    draw(whole, list(METHODS.values()), options.output / "samples.png")


if __name__ == "__main__":
    main()
