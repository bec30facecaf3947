"""benchmarks.flow_matching: its samplers keep to their budgets; it ends with its table and its picture."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import flow_matching
from benchmarks.flow_matching import ADAPTIVE, BUDGETS, FIXED
from tests.conftest import Net, normal


def test_more_evaluations_are_nearer_to_a_tight_solve() -> None:
    dynamics = Net(3, seed=1).float()
    noise = normal(5, 3, dtype=torch.float32)
    tight, found = flow_matching.every(dynamics, noise)
    assert tight.dtype == torch.float64
    for solver in (*ADAPTIVE, *FIXED):
        its = [one for one in found if one.solver == solver]
        # Tsit5's automatic first step can be too short for the smallest budget
        assert [one.budget for one in its] == list(BUDGETS)[-len(its) :]
        assert len(its) == len(BUDGETS) - (solver == "Tsit5")
        assert all(0.5 * one.budget < one.nfe <= one.budget for one in its)
        distances = [float((one.samples - tight).square().mean().sqrt()) for one in its]
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < 0.3 * distances[0]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["train.steps=2", "task.fine_tune=1", "train.batch=8", "data.limit=32", "task.hidden=8"]
    given = ["--offline", "--config", "flow_matching_short", "--samples", "8", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["flow_matching", *given, *(f"--set={change}" for change in changes)])
    flow_matching.main()
    printed = capsys.readouterr().out
    for label in flow_matching.METHODS.values():
        assert f"{label}: test MSE" in printed
        assert f"| {label} | Euler | 39 steps | 40 |" in printed
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
