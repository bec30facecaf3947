"""Runs: resumed to the bit however they end, refused where they would not be right, logged and recorded."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pylocalreg as plr
from pylocalreg.errors import CheckpointError, NonFiniteError, OptionError, StoppedError
from pylocalreg.experiments import checkpoint, generators, log, records
from pylocalreg.experiments.checkpoint import Checkpoint
from pylocalreg.experiments.files import replacing
from pylocalreg.experiments.optimizers import Optimization
from pylocalreg.experiments.task import Outcome
from pylocalreg.experiments.train import Batches, Progress, evaluate
from tests.toy import ALONE, OPTIMIZERS, Toy, data, run, toy

KILLS = int(os.environ.get("PYLOCALREG_KILLS", "3"))


def _rows(folder: Path) -> list[dict[str, Any]]:
    """A run's log without its times."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in log.read(folder / "log.jsonl")
    ]


def _assert_same_run(one: Path, other: Path) -> None:
    assert _rows(one) == _rows(other)
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


class _CrashError(Exception):
    pass


def _crash_after(step: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise _CrashError

    return report


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_crashed_run_goes_on_to_the_same_bits(tmp_path: Path, save_every: int) -> None:
    run(tmp_path / "whole", 8)
    for step in (1, 2, 4, 7):
        with pytest.raises(_CrashError):
            run(tmp_path / "crashed", 8, report=_crash_after(step), save_every=save_every)
        # Another run in between must not matter: nothing is left to the process's own state.
        torch.manual_seed(step)
        torch.rand(step)
    run(tmp_path / "crashed", 8, save_every=save_every)
    _assert_same_run(tmp_path / "whole", tmp_path / "crashed")


@pytest.mark.parametrize("optimizer", ["adamax", "sgd"])
def test_other_optimizers_are_resumed(tmp_path: Path, optimizer: str) -> None:
    run(tmp_path / "whole", 4, optimizer=optimizer)
    with pytest.raises(_CrashError):
        run(tmp_path / "crashed", 4, optimizer=optimizer, report=_crash_after(2))
    run(tmp_path / "crashed", 4, optimizer=optimizer)
    _assert_same_run(tmp_path / "whole", tmp_path / "crashed")


def test_a_run_killed_at_random_moments_ends_as_one_never_killed(tmp_path: Path) -> None:
    """PYLOCALREG_KILLS says how many times; 3 by default."""
    steps = 25 * KILLS
    run(tmp_path / "whole", steps)
    moments = random.Random(0)
    command = [sys.executable, "-m", "tests.toy", str(tmp_path / "killed"), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = 0
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(moments.randrange(1, 20)):
                done = int(process.stdout.readline())
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert 0 < done < steps
    last = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert int(last.stdout.split()[0]) > 1
    _assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_it_saved(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match="after step 3 of 6") as stopped:
        run(tmp_path / "stopped", save_every=100, report=interrupt)
    assert stopped.value.signal == number
    assert signal.getsignal(number) == before
    assert checkpoint.load(tmp_path / "stopped/checkpoint.safetensors").progress.step == 3
    run(tmp_path / "stopped", save_every=100)
    run(tmp_path / "whole")
    _assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    # Where the tests run in the background SIGINT is ignored from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, report=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_run_is_its_record(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path, report=_crash_after(1))
    assert again == first == records.load(tmp_path / "record.json")
    assert first.metric == "accuracy"
    assert first.parameters == sum(p.numel() for p in toy().parameters())
    assert [row["step"] for row in first.history] == [0, 4, 6]
    assert first.validation_score == first.history[-1]["score"]
    assert first.test_nfe > 0
    assert first.prediction_seconds > 0
    assert first.train_seconds > 0
    seen: list[Progress] = []
    run(tmp_path, restart=True, report=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    often, seldom = run(tmp_path / "often", evaluate_every=1), run(tmp_path / "seldom", evaluate_every=6)
    assert often.test_score == seldom.test_score
    train = [
        [row for row in _rows(tmp_path / name) if row["kind"] == "train"] for name in ("often", "seldom")
    ]
    assert train[0] == train[1]


def test_evaluation_draws_from_no_generator_of_the_training() -> None:
    """One that draws from both, torch's own and the task's, as an SDE's does."""
    task = toy()

    class Drawing(Toy):
        def forward(self, *batch: torch.Tensor) -> Outcome:
            x, y = batch
            noise = torch.rand((), generator=self.generator) + torch.rand(())
            return super().forward(x + 0.1 * noise, y)

    task.__class__ = Drawing
    before = generators.states(task.generators())
    first, again = (evaluate(task, data().test, 16, ALONE) for _ in range(2))
    assert first.loss == again.loss
    after = generators.states(task.generators())
    assert all(torch.equal(state, after[name]) for name, state in before.items())
    task.generator.manual_seed(7)
    torch.manual_seed(8)
    assert evaluate(task, data().test, 16, ALONE).loss == first.loss


@pytest.mark.parametrize("step", [0, 1, 4])
def test_each_step_has_its_own_learning_rate(step: int, tmp_path: Path) -> None:
    """As the schedule has it for a step counted from 0, in the optimizer and in the log, resumed or not."""
    rate = plr.schedules.Cosine(0.01, 0.005, 6)
    optimization = Optimization(torch.optim.SGD(toy().parameters(), lr=1.0), rate)
    assert optimization.at(step).param_groups[0]["lr"] == rate(step)
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(OPTIMIZERS, "watched", Watched)
        if step > 0:
            with pytest.raises(_CrashError):
                run(tmp_path, report=_crash_after(step), optimizer="watched")
        run(tmp_path, optimizer="watched")
    assert rates == [rate(i) for i in range(6)]
    assert [row["learning_rate"] for row in _rows(tmp_path) if row["kind"] == "train"] == rates


def test_the_time_before_a_stop_is_counted(tmp_path: Path) -> None:
    with pytest.raises(_CrashError):
        run(tmp_path, report=_crash_after(3))
    path = tmp_path / "checkpoint.safetensors"
    found = checkpoint.load(path)
    late = found.progress.model_copy(update={"seconds": 1000.0})
    checkpoint.save(path, Checkpoint(late, found.weights, found.optimizer, found.generators))
    record = run(tmp_path)
    assert record.train_seconds > 1000
    assert [row["seconds"] > 1000 for row in record.history] == [False, True, True]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to name an open file")
def test_files_are_on_the_disk_before_they_are_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log before the checkpoint that stands for it, and every file before it takes its place."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def name(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    def watched_fsync(descriptor: int) -> None:
        done.append(name(descriptor))
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        done.append(f"> {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    run(tmp_path, 2, evaluate_every=2)
    first = [
        "log.jsonl",
        ".checkpoint.safetensors.partial",
        "> checkpoint.safetensors",
        "log.jsonl",
        ".checkpoint.safetensors.partial",
        "> checkpoint.previous.safetensors",
        "> checkpoint.safetensors",
    ]
    start = done.index("log.jsonl")
    assert done[start : start + len(first)] == first
    replaced = [i for i, what in enumerate(done) if what.startswith("> ") and "previous" not in what]
    assert len(replaced) == 7  # settings, owner, log, two checkpoints, weights, record
    for i in replaced:
        assert f".{done[i][2:]}.partial" in done[max(i - 2, 0) : i]


def test_a_run_of_two_processes_is_not_one_of_one(tmp_path: Path) -> None:
    with pytest.raises(_CrashError):
        run(tmp_path, report=_crash_after(2))
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    assert settings["processes"] == 1
    path.write_text(json.dumps({**settings, "processes": 2}))
    with pytest.raises(CheckpointError, match="processes was 2, now 1"):
        run(tmp_path)
    path.unlink()
    found = checkpoint.load(tmp_path / "checkpoint.safetensors")
    of_two = found.progress.identity.model_copy(update={"processes": 2})
    progress = found.progress.model_copy(update={"identity": of_two})
    checkpoint.save(
        tmp_path / "checkpoint.safetensors",
        Checkpoint(progress, found.weights, found.optimizer, found.generators),
    )
    with pytest.raises(CheckpointError, match="processes was 2, now 1"):
        run(tmp_path)


def test_it_learns(tmp_path: Path) -> None:
    record = run(tmp_path, 40, evaluate_every=40, save_every=40, learning_rate=0.05)
    assert record.test_score > 90


def test_evaluation_is_the_mean_over_all_samples() -> None:
    task = toy()
    whole, parts = (evaluate(task, data().test, batch, ALONE) for batch in (1000, 16))
    assert task.training
    assert parts.score == pytest.approx(whole.score)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_an_epoch_takes_every_sample_once() -> None:
    batches = Batches(10, 3, seed=0)
    first = torch.cat([batches[step] for step in range(3)])
    second = torch.cat([batches[step] for step in range(3, 6)])
    assert len(set(first.tolist())) == 9
    assert not torch.equal(first, second)
    assert torch.equal(Batches(10, 3, seed=0)[4], batches[4])
    assert not torch.equal(torch.cat([Batches(10, 3, seed=1)[step] for step in range(3)]), first)
    with pytest.raises(OptionError, match="11 is larger than the training data, 10"):
        Batches(10, 11, seed=0)


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, 6)
    with pytest.raises(CheckpointError, match="steps was 6, now 7"):
        run(tmp_path, 7)
    assert run(tmp_path, 7, restart=True).history[-1]["step"] == 7


def test_autocast_is_refused(tmp_path: Path) -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(OptionError, match="autocast to torch"),
    ):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    task = toy()

    def poison(progress: Progress) -> None:
        if progress.step == 2:
            task.head.bias.data.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="step 3 of 6"):
        run(tmp_path, task=task, report=poison)
    assert checkpoint.load(tmp_path / "checkpoint.safetensors").progress.step == 2


def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(_CrashError):
        run(tmp_path, report=_crash_after(2))
    for path in (tmp_path / "checkpoint.safetensors", tmp_path / "checkpoint.previous.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="restart"):
        run(tmp_path)


def test_a_save_cut_short_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_text("the last")

    def cut_short() -> None:
        with replacing(path) as partial:
            partial.write_text("half of the ne")
            raise _CrashError

    with pytest.raises(_CrashError):
        cut_short()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "the last")]


def test_weights_are_read_alone_from_either_file(tmp_path: Path) -> None:
    run(tmp_path)
    trained = load_file(tmp_path / "weights.safetensors")
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        task = toy(seed=5)
        checkpoint.load_weights(tmp_path / name, task)
        assert all(torch.equal(weight, trained[key]) for key, weight in task.state_dict().items())
    other = Toy(generators.seeded(0), None, layers=False)
    with pytest.raises(CheckpointError, match="norm"):
        checkpoint.load_weights(tmp_path / "weights.safetensors", other)


def test_a_torn_last_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert [row["step"] for row in log.read(tmp_path / "log.jsonl")] == [1]


def test_tensorboard_has_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, 3, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [row["loss"] for row in log.read(tmp_path / "log.jsonl") if row["kind"] == "train"]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionError, match=r"pip install 'pylocalreg\[tensorboard\]'"):
        run(tmp_path, tensorboard=True)


def test_records_are_found_below_a_folder(tmp_path: Path) -> None:
    record = run(tmp_path / "a/b")
    assert records.load_all([tmp_path]) == [record]
    (tmp_path / "a/b/record.json").write_text(json.dumps({"experiment": "toy"}))
    with pytest.raises(CheckpointError, match="no record of a run"):
        records.load_all([tmp_path])
    with pytest.raises(CheckpointError, match="train or sweep"):
        records.load_all([tmp_path / "none"])
