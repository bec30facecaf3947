"""train, sweep, table and figure: from a config to a table, resumed, and refused with one message."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pylocalreg import cli, errors
from pylocalreg.experiments import config, records, runs
from pylocalreg.experiments.train import Progress
from tests.test_data import write_mnist
from tests.toy import ALONE, run

CHANGES = ("train.steps=2", "train.batch=16", "data.limit=32", "solver.abstol=1e-4", "solver.reltol=1e-4")
SMALL = ("--offline", *(part for change in CHANGES for part in ("--set", change)))


class CrashError(Exception):
    pass


def crash(progress: Progress) -> None:
    raise CrashError


def _call(*arguments: str | Path) -> None:
    cli.main([str(argument) for argument in arguments])


def test_from_a_sweep_to_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("--method", "vanilla", "--method", "local_biased")
    _call("sweep", "mnist_node", *methods, "--seeds", "2", *SMALL, "--output", tmp_path / "runs")
    found = records.load_all([tmp_path / "runs"])
    assert {(run.method, run.seed) for run in found} == {
        (method, seed) for method in ("vanilla", "local_biased") for seed in (0, 1)
    }
    assert len({run.history[0]["loss"] for run in found}) == 2
    assert (tmp_path / "runs/mnist_node/vanilla/seed-1/weights.safetensors").exists()

    _call("table", tmp_path / "runs", "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert re.search(r"\| vanilla \|.*\| 2 \|", printed)
    assert "stand-in" in printed
    _call("figure", tmp_path / "runs", "--output", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table-2.md",
        "table-2.tex",
        *(f"figure-{number}.{suffix}" for number in (1, 2, 3) for suffix in ("png", "pdf")),
    }

    before = (tmp_path / "runs/mnist_node/vanilla/seed-0/log.jsonl").stat().st_mtime_ns
    _call("train", "mnist_node", "--seed", "0", *SMALL, "--output", tmp_path / "runs")
    assert (tmp_path / "runs/mnist_node/vanilla/seed-0/log.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "mnist_nose"), "mnist_nose"),
        (("train", "mnist_node", "--method", "magic"), "magic"),
        (("train", "mnist_node", "--offline", "--set", "train.amp=true"), "train.amp"),
        (("train", "mnist_node", "--offline", "--set", "dtype=float16"), "dtype"),
        (("train", "mnist_node", "--offline", "--device", "tpu"), "tpu"),
        (("sweep", "mnist_node", "cifar11_conv"), "cifar11_conv"),
        (("table", "nowhere"), "nowhere"),
        (("figure", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_said_before_anything_starts(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        _call(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["...yaml", "....yaml"])
def test_a_config_s_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """The stem of ``...yaml`` is ``..``."""
    (tmp_path / name).write_text("task: {name: mnist_node}")
    with pytest.raises(SystemExit, match="name it otherwise"):
        _call("train", tmp_path / name, *SMALL, "--output", tmp_path / "out/runs")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_number_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "runs")
    with pytest.raises(SystemExit, match="7 is none of"):
        _call("table", tmp_path, "--number", "7", "--output", tmp_path)
    with pytest.raises(SystemExit, match="11 is none of"):
        _call("figure", tmp_path, "--number", "11", "--output", tmp_path)


def test_a_terminated_command_has_saved_and_goes_on(tmp_path: Path) -> None:
    arguments = ["mnist_node", *SMALL, "--set", "train.steps=2000", "--output", str(tmp_path)]
    folder = tmp_path / "mnist_node/vanilla/seed-0"
    with subprocess.Popen(
        [sys.executable, "-m", "pylocalreg.cli", "train", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for _ in range(600):
            time.sleep(0.1)
            if (folder / "log.jsonl").exists() and (folder / "log.jsonl").read_text().count("train") > 2:
                break
        process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on from there" in message
    assert "Traceback" not in message
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert f"after step {rows[-1]['step']} of 2000" in message


@pytest.mark.parametrize("name", ["mnist_nsde", "physionet"])
def test_an_experiment_is_resumed_to_the_same_bits(name: str, tmp_path: Path) -> None:
    changes = ["data.offline=true", "train.steps=2", "train.batch=4", "data.limit=8", "method=local_unbiased"]
    tolerance = ["solver.abstol=0.1", "solver.reltol=0.1"]
    chosen = config.load(name, [*changes, *tolerance])

    runs.run(chosen, tmp_path / "whole", ALONE)
    with pytest.raises(CrashError):
        runs.run(chosen, tmp_path / "crashed", ALONE, report=crash)
    runs.run(chosen, tmp_path / "crashed", ALONE)
    whole, crashed = (load_file(tmp_path / part / "weights.safetensors") for part in ("whole", "crashed"))
    assert all(torch.equal(weight, crashed[key]) for key, weight in whole.items())


def test_a_run_goes_on_where_its_data_were_moved_but_not_on_others(tmp_path: Path) -> None:
    changes = ["train.steps=2", "train.batch=4", "solver.abstol=0.1", "solver.reltol=0.1"]

    def chosen(folder: Path) -> config.Config:
        return config.load("mnist_node", [*changes, f"data.folder={folder}"])

    first, moved = tmp_path / "first", tmp_path / "moved"
    first.mkdir()
    write_mnist(first, packed=False)
    with pytest.raises(CrashError):
        runs.run(chosen(first), tmp_path / "run", ALONE, report=crash)
    first.rename(moved)
    images = moved / "train-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(errors.CheckpointError, match=r"another run \(data was"):
        runs.run(chosen(moved), tmp_path / "run", ALONE)
    images.write_bytes(content)
    record = runs.run(chosen(moved), tmp_path / "run", ALONE)
    assert len([row for row in record.history if row["kind"] == "validation"]) == 2
    assert str(tmp_path) not in (tmp_path / "run" / "record.json").read_text()


def test_compiled_steps_are_part_of_what_a_run_is(tmp_path: Path) -> None:
    changes = ["train.steps=2", "train.batch=8", "train.evaluate_every=2", "data.limit=16"]
    chosen = config.load("mnist_node_short", changes)

    with pytest.raises(CrashError):
        runs.run(chosen, tmp_path, ALONE, report=crash, compiled=True)
    with pytest.raises(errors.CheckpointError, match="compiled"):
        runs.run(chosen, tmp_path, ALONE)
    assert runs.run(chosen, tmp_path, ALONE, compiled=True).device.endswith(", compiled")


def test_a_run_convolves_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's TF32, PyTorch's default, does not resolve the tolerances."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    changes = ["train.steps=1", "train.batch=2", "train.evaluate_every=1", "data.limit=4", "task.hidden=2"]
    allowed = []
    runs.run(
        config.load("cifar10_conv_short", changes),
        tmp_path,
        ALONE,
        report=lambda *_: allowed.append(torch.backends.cudnn.allow_tf32),
    )
    assert allowed
    assert not any(allowed)
    assert torch.backends.cudnn.allow_tf32


def test_a_task_without_a_neural_ode_is_not_compiled(tmp_path: Path) -> None:
    chosen = config.load("mnist_nsde_short", ["train.steps=2"])
    with pytest.raises(errors.OptionError, match="no neural ODE"):
        runs.run(chosen, tmp_path, ALONE, compiled=True)
