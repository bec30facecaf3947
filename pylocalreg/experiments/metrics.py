"""What an experiment is scored by, and how its scores are written and drawn."""

import math
from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy", "mse", "nll", "bpd"]


@dataclass(frozen=True)
class Kind:
    """Attributes:
    name: before a number, "" where its unit says enough; ``unit`` stands behind it.
    label: of a table's column or a figure's axis.
    form: of its numbers in a table.
    factor: of a score to the mean over the samples of what a task counts.
    lowest, highest: the scores there are.
    logarithmic: whether a figure's axis is: errors fall by factors.
    """

    name: str
    unit: str
    label: str
    form: str
    factor: float = 1.0
    lowest: float = 0.0
    highest: float = math.inf
    logarithmic: bool = False

    def written(self, score: float) -> str:
        """In a line of text."""
        return f"{self.name} {score:{self.form}}{self.unit}".strip()


METRICS: dict[Metric, Kind] = {
    "accuracy": Kind("", "%", "accuracy, %", ".2f", factor=100.0, highest=100.0),
    "mse": Kind("MSE", "", "MSE", ".3g", logarithmic=True),
    "nll": Kind("NLL", " nats", "NLL, nats", ".3f", lowest=-math.inf),
    "bpd": Kind("NLL", " bits/dim", "NLL, bits/dim", ".3f", lowest=-math.inf),
}
"""Negative log likelihoods are of densities, which may be greater than 1: they may be negative."""
