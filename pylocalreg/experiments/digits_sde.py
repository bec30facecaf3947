"""`pylocalreg digits-sde`: a neural SDE on digits, without and with local regularization, by seeds."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import pylocalreg as plr
from pylocalreg.experiments import digits
from pylocalreg.regularizers import Sampling

WIDTH = 32
SAMPLINGS: tuple[Sampling, ...] = ("unbiased", "biased")


@dataclass(frozen=True)
class Config(digits.Config):
    """One training run; predictions are the mean over ``trajectories`` paths, training takes one."""

    hidden: int = 64
    tolerance: float = 0.14
    solver: str = "SOSRI2"
    trajectories: int = 10


class Classifier(torch.nn.Module):
    """64 pixels to 32 features by a linear layer, a neural SDE with a linear diffusion, a linear head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(64, WIDTH)
        self.node = plr.NeuralSDE(
            plr.TimeDependent(plr.Dense(WIDTH, config.hidden, "tanh"), plr.Dense(config.hidden, WIDTH)),
            plr.Chain(plr.Dense(WIDTH, WIDTH)),
            solver=config.solver,
            abstol=config.tolerance,
            reltol=config.tolerance,
            regularizer=config.regularizer,
            engine=config.engine,
        )
        self.head = torch.nn.Linear(WIDTH, 10)
        self.trajectories = config.trajectories

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, plr.Solution]:
        self.node.trajectories = None if self.training else self.trajectories
        solution = self.node(self.embed(x))
        logits: torch.Tensor = self.head(solution.u)
        return logits if self.training else logits.mean(0), solution


def configs(steps: int, seed: int, engine: str) -> list[Config]:
    """Vanilla, local unbiased, local biased; the coefficient is 1."""
    vanilla = Config(steps=steps, seed=seed, engine=engine)
    coefficient = plr.schedules.Constant(1.0)
    return [vanilla] + [
        Config(
            name=f"local, {sampling}",
            regularizer=plr.LocalRegularizer(sampling),
            coefficient=coefficient,
            steps=steps,
            seed=seed,
            engine=engine,
        )
        for sampling in SAMPLINGS
    ]


def run(records: Path, seeds: int, steps: int, engine: str, console: Console) -> dict[str, list[digits.Run]]:
    """Train all three from each seed, print the table and write ``records`` (see `digits.save`); the runs by
    name.
    """
    runs: dict[str, list[digits.Run]] = {}
    for seed in range(seeds):
        data = digits.load(seed)
        for config in configs(steps, seed, engine):
            done = digits.train(config, data, evaluate_every=steps, build=Classifier)
            runs.setdefault(config.name, []).append(done)
            last = done.last
            console.print(
                f"seed {seed}  {config.name:16} {last.accuracy:.1f}%  NFE {last.nfe}  {done.seconds:.0f} s"
            )
    console.print(table(runs))
    digits.save(records, runs)
    console.print(f"records: {records}")
    return runs


def table(runs: dict[str, list[digits.Run]]) -> Table:
    """Means over the seeds, and the standard deviations."""
    seeds = len(next(iter(runs.values())))
    out = Table(title=f"digits, test set: 32-d neural SDE, SOSRI2 at 0.14, {seeds} seeds")
    for name in ("", "accuracy", "NFE", "ratio", "training"):
        out.add_column(name, justify="left" if not name else "right", no_wrap=True)
    vanilla = statistics.mean(item.last.nfe for item in next(iter(runs.values())))
    for name, items in runs.items():
        nfe = [float(item.last.nfe) for item in items]
        out.add_row(
            name,
            digits.spread([item.last.accuracy for item in items]) + "%",
            digits.spread(nfe),
            f"{statistics.mean(nfe) / vanilla:.2f}",
            digits.spread([item.seconds for item in items]) + " s",
        )
    return out
