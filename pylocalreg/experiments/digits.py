"""The demo's experiment: scikit-learn's 8x8 digits, a 64-d neural ODE and a linear head."""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pylocalreg as plr
from pylocalreg.experiments.clock import clock_of
from pylocalreg.experiments.files import write_text
from pylocalreg.solution import Steps


@dataclass(frozen=True)
class Data:
    """Images in rows, in [0, 1]; shapes ``(n, 64)`` and labels ``(n,)``."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


@dataclass(frozen=True)
class Config:
    """One training run; the defaults are the demo's. A regularizer comes with its coefficient by step."""

    name: str = "vanilla"
    regularizer: plr.Regularizer | None = None
    coefficient: Callable[[int], float] | None = None
    steps: int = 240
    batch: int = 128
    learning_rate: float = 0.01
    hidden: int = 100
    tolerance: float = 1e-6
    seed: int = 0
    adjoint: plr.Adjoint = "discrete"
    engine: str = "torch"
    dtype: torch.dtype = torch.float64


@dataclass
class Run:
    """What a run leaves behind: a row of ``history`` for each evaluation, and where the steps went."""

    config: Config
    steps_before: Steps
    steps_after: Steps
    history: list["Row"] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def last(self) -> "Row":
        return self.history[-1]

    @property
    def record(self) -> dict[str, Any]:
        """Accuracy and NFE at its end, and its training time: a line of a file of records."""
        return {
            "method": self.config.name,
            "seed": self.config.seed,
            "steps": self.config.steps,
            "accuracy": self.last.accuracy,
            "nfe": self.last.nfe,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Row:
    """Test accuracy in percent and NFE of one solve over the whole test set, after ``step`` steps."""

    step: int
    loss: float
    accuracy: float
    nfe: int


Report = Callable[[int, float, Row], None]


def load(seed: int = 0, dtype: torch.dtype = torch.float64) -> Data:
    """1,797 images, 20 percent of each class held out."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16.0, labels, test_size=0.2, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in split)
    return Data(train_x.to(dtype), train_y, test_x.to(dtype), test_y)


class Classifier(torch.nn.Module):
    """A neural ODE and a linear head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dynamics = plr.TimeDependent(plr.Dense(64, config.hidden, "tanh"), plr.Dense(config.hidden, 64))
        self.node = plr.NeuralODE(
            dynamics,
            abstol=config.tolerance,
            reltol=config.tolerance,
            adjoint=config.adjoint,
            regularizer=config.regularizer,
            engine=config.engine,
        )
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, plr.Solution]:
        solution = self.node(x)
        logits: torch.Tensor = self.head(solution.u)
        return logits, solution


def evaluate(model: torch.nn.Module, data: Data, step: int, loss: float) -> tuple[Row, Steps]:
    model.eval()
    with torch.no_grad():
        logits, solution = model(data.test_x)
    model.train()
    accuracy = 100.0 * float((logits.argmax(1) == data.test_y).double().mean())
    return Row(step, loss, accuracy, solution.stats.nfe), solution.steps


def train(
    config: Config,
    data: Data,
    report: Report | None = None,
    evaluate_every: int = 10,
    build: Callable[[Any], torch.nn.Module] = Classifier,
    observe: Callable[[plr.Solution], None] | None = None,
) -> Run:
    """Train with Adam on data of the config's dtype; ``report`` is called after every step with (step,
    loss, last row).

    ``build`` makes the model of a config in place of `Classifier`: images to (logits, solution). ``observe``
    is called with every training step's solution, once its coefficient was asked for.
    """
    torch.manual_seed(config.seed)
    model = build(config).to(config.dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    shuffle = torch.Generator().manual_seed(config.seed)
    row, steps = evaluate(model, data, 0, float("nan"))
    run = Run(config, steps, steps, [row])
    clock = clock_of(torch.device("cpu"))
    drawn = batches(len(data.train_y), config.batch, shuffle)
    for step in range(config.steps):
        started = clock()
        chosen = next(drawn)
        logits, solution = model(data.train_x[chosen])
        loss = torch.nn.functional.cross_entropy(logits, data.train_y[chosen])
        objective = loss
        if solution.regularization is not None and config.coefficient is not None:
            objective = loss + config.coefficient(step) * solution.regularization
            if isinstance(config.coefficient, plr.schedules.NFEBudget):
                config.coefficient.observe(solution.stats)
        if observe is not None:
            observe(solution)
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.seconds += clock() - started
        if (step + 1) % evaluate_every == 0 or step + 1 == config.steps:
            row, run.steps_after = evaluate(model, data, step + 1, float(loss.detach()))
            run.history.append(row)
        if report is not None:
            report(step, float(loss.detach()), run.last)
    return run


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Random batches for ever, one shuffle an epoch; an epoch's rest is left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].view(-1, size)


def save(path: Path, runs: Mapping[str, Sequence[Run]]) -> None:
    """A line of JSON for each run: see `Run.record`."""
    write_text(path, "".join(json.dumps(run.record) + "\n" for found in runs.values() for run in found))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} +- {deviation:.1f}"
