"""Two processes under torchrun: the gradients of one process on the same samples, and the same resumption."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pylocalreg.errors import OptionError
from pylocalreg.experiments import checkpoint, log, records
from pylocalreg.experiments.distributed import joined
from pylocalreg.experiments.train import Batches
from tests.toy import Toy, data, toy


def _torchrun(module: str, *arguments: str | Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module]
    done = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests/ranks.py`, run by two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    _torchrun("tests.ranks", folder)
    return folder


def _gradient(task: Toy, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Of one process's loss and regularizer, and its NFE."""
    outcome = task(*(part[rows] for part in data().train))
    objective = outcome.loss + task.weight(0) * outcome.regularization
    names, parameters = zip(*task.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(objective, parameters), strict=True)), outcome.nfe


def _taken(folder: Path) -> dict[str, torch.Tensor]:
    trained, before = load_file(folder / "weights.safetensors"), toy(layers=False).state_dict()
    return {name: before[name] - weight for name, weight in trained.items()}


def test_two_processes_give_the_gradient_of_one(runs: Path) -> None:
    rows = Batches(64, 16, seed=0)[0]
    ours = _taken(runs / "vanilla")
    theirs, _ = _gradient(toy(regularize=False, layers=False), rows)
    for name, gradient in theirs.items():
        # The halves of the batch are solved with steps of their own, to a tolerance of 1e-6.
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6)


def test_every_rank_draws_its_own_time_and_nfe_is_the_mean(runs: Path) -> None:
    halves = Batches(64, 16, seed=0)[0].chunk(2)
    parts = [_gradient(toy(rank=rank, layers=False), rows) for rank, rows in enumerate(halves)]
    ours = _taken(runs / "local")
    for name, gradient in ours.items():
        mean = (parts[0][0][name] + parts[1][0][name]) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-12, atol=1e-14)
    (row,) = (row for row in log.read(runs / "local/log.jsonl") if row["kind"] == "train")
    assert row["nfe"] == (parts[0][1] + parts[1][1]) / 2
    same = _gradient(toy(rank=0, layers=False), halves[1])[0]
    assert any(not torch.equal(same[name], gradient) for name, gradient in parts[1][0].items())


def test_a_stop_on_one_rank_stops_all_and_is_resumed(runs: Path) -> None:
    whole, stopped = (load_file(runs / name / "weights.safetensors") for name in ("whole", "stopped"))
    for name, weight in whole.items():
        assert torch.equal(weight, stopped[name]), name
    assert records.load(runs / "whole/record.json").processes == 2
    assert checkpoint.load(runs / "whole/checkpoint.safetensors").progress.identity.processes == 2
    assert json.loads((runs / "whole/settings.json").read_text())["processes"] == 2


def test_processes_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    """The cases are in `tests/strangers.py`: data, settings and folder of another rank."""
    _torchrun("tests.strangers", tmp_path)


def test_a_process_that_stays_away_is_given_up(tmp_path: Path) -> None:
    _torchrun("tests.strangers", tmp_path, "late")
    assert (tmp_path / "given-up").exists()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="'tpu' does not exist"), joined("tpu"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError, match="finds 0 GPUs"), joined("cuda"):
        pass
    with joined("auto") as team:
        assert (team.rank, team.size, team.device.type) == (0, 1, "cpu")
