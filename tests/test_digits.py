"""The demo: it learns, it saves evaluations, it is reproducible, it writes its picture whole."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import pylocalreg as plr
from pylocalreg.experiments import digits, digits_sde
from tests.julia import without_julia


def _train(name: str, steps: int, seed: int = 0, sampling: plr.Sampling | None = None) -> digits.Run:
    config = digits.Config(
        name=name,
        regularizer=plr.LocalRegularizer(sampling) if sampling else None,
        coefficient=plr.schedules.Constant(1.0) if sampling else None,
        steps=steps,
        seed=seed,
    )
    return digits.train(config, digits.load(), evaluate_every=steps)


def test_regularization_saves_evaluations_at_equal_accuracy() -> None:
    vanilla = _train("vanilla", 60).last
    biased = _train("biased", 60, sampling="biased").last
    unbiased = _train("unbiased", 60, sampling="unbiased").last
    assert vanilla.accuracy > 92
    for row in (biased, unbiased):
        assert row.accuracy > vanilla.accuracy - 3
        assert row.nfe < 0.7 * vanilla.nfe


def test_a_seed_gives_the_same_run() -> None:
    one, two = (_train("unbiased", 5, seed=3, sampling="unbiased") for _ in range(2))
    other = _train("unbiased", 5, seed=4, sampling="unbiased")
    assert one.last == two.last
    assert one.last.loss != other.last.loss


def _command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pylocalreg.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        check=False,
    )


def test_demo_writes_table_and_picture(tmp_path: Path) -> None:
    """Its output is a file here: a line for each model all the same."""
    done = _command("demo", "--steps", "2", "--seeds", "2", "--output", "out/demo.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(f"{number} of 6  " in done.stdout for number in range(1, 7))
    assert "processes of one thread each" in done.stdout
    assert "2 seeds" in done.stdout
    assert "NFE" in done.stdout
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["demo.png"]
    assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(line) for line in (tmp_path / "results/demo.jsonl").read_text().splitlines()]
    methods = ("vanilla", "local, unbiased", "local, biased")
    assert [(run["method"], run["seed"]) for run in runs] == [(name, i) for name in methods for i in (0, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--output", "demo.txt"), "png"),
        (("demo", "--steps", "0"), "steps"),
        (("demo", "--steps", "1", "--engine", "fortran"), "fortran"),
        pytest.param(("demo", "--steps", "1", "--engine", "julia"), "julia", marks=without_julia),
    ],
)
def test_bad_arguments_end_in_one_message(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = _command(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_neural_sde_learns_and_saves_calls() -> None:
    data = digits.load()
    vanilla, unbiased, _ = (
        dataclasses.replace(c, trajectories=2) for c in digits_sde.configs(30, 0, "torch")
    )
    before, after = (
        digits.train(config, data, evaluate_every=30, build=digits_sde.Classifier).last
        for config in (vanilla, unbiased)
    )
    assert before.accuracy > 75
    assert after.accuracy > before.accuracy - 5
    assert after.nfe < 0.75 * before.nfe


def test_digits_sde_prints_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits.load()
    few = digits.Data(data.train_x, data.train_y, data.test_x[:20], data.test_y[:20])
    monkeypatch.setattr(digits, "load", lambda seed: few)
    console = Console(record=True, width=100)
    records = tmp_path / "records.jsonl"
    runs = digits_sde.run(records, 2, 1, "torch", console)
    assert [len(items) for items in runs.values()] == [2, 2, 2]
    text = console.export_text()
    assert "2 seeds" in text
    assert "local, biased" in text
    written = [json.loads(line)["nfe"] for line in records.read_text().splitlines()]
    assert written == [item.last.nfe for items in runs.values() for item in items]


def test_digits_sde_takes_at_least_one_seed(tmp_path: Path) -> None:
    done = _command("digits-sde", "--seeds", "0", cwd=tmp_path)
    assert done.returncode != 0
    assert "seeds" in done.stderr
