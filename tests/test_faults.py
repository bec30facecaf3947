"""What may happen to a run's folder, and what must come of it: the same bits, or a refusal with a reason.

docs/training.md has these faults as a table. Every one ends in one of two ways: the run goes on to the
bits of one that nothing happened to, or an error of ours says what is wrong, and the
folder can still be repaired.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pylocalreg
from pylocalreg.errors import CheckpointError, LocalRegError, NonFiniteError, OutputError, OwnedError
from pylocalreg.experiments import checkpoint, identity, log, owner, records
from pylocalreg.experiments.checkpoint import Checkpoint
from pylocalreg.experiments.train import Progress
from tests.toy import OPTIMIZERS, data, run, toy

NEWEST, OLDER = "checkpoint.safetensors", "checkpoint.previous.safetensors"


class CrashError(Exception):
    pass


def crash_after(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise CrashError

    return report


def stopped(folder: Path, step: int = 4, **given: Any) -> None:
    """A run of six steps in ``folder``, with checkpoints of ``step`` and the one before."""
    with pytest.raises(CrashError):
        run(folder, report=crash_after(step), **given)


def assert_as_whole(folder: Path, tmp_path: Path) -> None:
    """The finished run in ``folder`` has the bits of one that nothing happened to."""
    run(tmp_path / "whole")
    mine, whole = (load_file(place / "weights.safetensors") for place in (folder, tmp_path / "whole"))
    assert all(torch.equal(weight, whole[name]) for name, weight in mine.items())
    rows = [
        [{**row, "seconds": 0} for row in log.read(place / "log.jsonl")]
        for place in (folder, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


# -- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["weight", "moment", "buffer"])
@pytest.mark.parametrize("step", [3, 6])
def test_what_is_not_finite_after_a_step_is_not_written(
    what: str, value: float, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, and in the last step, after which there would be a record."""
    task, adam = toy(), torch.optim.Adam
    took = 0

    class Poisoned(adam):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> None:
            nonlocal took
            super().step(closure)
            took += 1
            if took == step:
                slot = next(iter(self.state.values()))["exp_avg_sq"]
                spoilt = {"weight": task.head.weight, "moment": slot, "buffer": task.norm.running_mean}[what]
                with torch.no_grad():
                    spoilt.view(-1)[0] = value

    monkeypatch.setitem(OPTIMIZERS, "adam", Poisoned)
    with pytest.raises(NonFiniteError, match=f"step {step} of 6"):
        run(tmp_path, task=task)
    found = checkpoint.load(tmp_path / NEWEST)
    assert found.progress.step == step - 1
    assert all(bool(weight.isfinite().all()) for weight in found.weights.values())
    assert max(row["step"] for row in log.read(tmp_path / "log.jsonl")) == step - 1
    assert not (tmp_path / "record.json").exists()
    assert not (tmp_path / "weights.safetensors").exists()


def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """Finite weights whose square is none."""
    task = toy()

    def enlarge(progress: Progress) -> None:
        if progress.step == 3:
            task.head.weight.data.fill_(1e308)

    class Blind(type(task)):  # type: ignore[misc]
        def forward(self, *batch: torch.Tensor) -> Any:
            outcome = super().forward(*batch)
            if self.training:
                return outcome
            return type(outcome)(**{**vars(outcome), "loss": outcome.loss * float("inf")})

    task.__class__ = Blind
    with pytest.raises(NonFiniteError, match="evaluation after step 0 of 6"):
        run(tmp_path, task=task, report=enlarge)
    assert not (tmp_path / "record.json").exists()


# -- strangers ----------------------------------------------------------------------------------------------


def test_another_runs_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    stopped(tmp_path / "0")
    stopped(tmp_path / "1", seed=1)
    for name in (NEWEST, "log.jsonl"):
        (tmp_path / "0" / name).write_bytes((tmp_path / "1" / name).read_bytes())
    for _ in range(2):  # refused again, not taken the second time
        with pytest.raises(CheckpointError, match=r"seed was 1, now 0; settings\.seed was 1, now 0"):
            run(tmp_path / "0")
    (tmp_path / "0/settings.json").unlink()
    with pytest.raises(CheckpointError, match="seed was 1, now 0"):
        run(tmp_path / "0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 7}, r"steps was 6, now 7"),
        ({"evaluate_every": 3}, "plan.evaluate_every was 4, now 3"),
        ({"optimizer": "adamax"}, "optimizer.name was Adam, now Adamax"),
    ],
)
def test_without_settings_the_checkpoint_still_knows_its_run(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    stopped(tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, **change)


def test_deleted_settings_are_written_again(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    (tmp_path / "run/settings.json").unlink()
    run(tmp_path / "run")
    assert json.loads((tmp_path / "run/settings.json").read_text()) == {"steps": 6, "seed": 0, "processes": 1}
    assert_as_whole(tmp_path / "run", tmp_path)


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one other bit, in a run that is stopped and in one that is done."""
    found = data()
    found.test[0].view(torch.uint8)[-1, -1] ^= 1

    def refused() -> None:
        with monkeypatch.context() as patched:
            patched.setattr("tests.toy.data", lambda: found)
            with pytest.raises(CheckpointError, match=r"data was toy: 64, 16, 24 samples, .* now toy"):
                run(tmp_path)

    stopped(tmp_path)
    refused()
    run(tmp_path)
    refused()


def test_other_threads_and_another_dtype_are_refused(tmp_path: Path) -> None:
    stopped(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(
            CheckpointError, match=rf"device was CPU, {threads} thread.* now CPU, {threads + 1}"
        ):
            run(tmp_path)
    finally:
        torch.set_num_threads(threads)
    task = toy()
    task.head.float()
    with pytest.raises(
        CheckpointError, match=r"model.head.weight was float64 \[2, 3\], now float32 \[2, 3\]"
    ):
        run(tmp_path, task=task)


def test_another_version_is_warned_of_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path, step=2)
    before = identity.software()
    monkeypatch.setattr(pylocalreg, "__version__", "99.0")
    with (
        pytest.warns(UserWarning, match=r"is of pylocalreg 0.*this is pylocalreg 99\.0"),
        pytest.raises(CrashError),
    ):
        run(tmp_path, report=crash_after(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = run(tmp_path)
    assert record.software == [before, identity.software()]
    assert records.load(tmp_path / "record.json").software == record.software
    assert f"torch {torch.__version__}" in record.software[0]


def test_a_record_of_another_run_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path / "0")
    run(tmp_path / "1", seed=1)
    (tmp_path / "0/record.json").write_bytes((tmp_path / "1/record.json").read_bytes())
    with pytest.raises(CheckpointError, match="seed was 1, now 0"):
        run(tmp_path / "0")


# -- integrity ----------------------------------------------------------------------------------------------


def _flip(path: Path, place: float, bit: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_one_flipped_bit_and_the_checkpoint_before_is_taken(place: float, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stopped(folder)
    _flip(folder / NEWEST, place)
    damaged = (folder / NEWEST).read_bytes()
    with pytest.warns(UserWarning, match=r"no checkpoint of a run.*the one before, of step 3"):
        run(folder)
    assert (folder / "checkpoint.broken.safetensors").read_bytes() == damaged
    assert_as_whole(folder, tmp_path)
    assert not {path.name for path in folder.iterdir()} & {"run.lock.partial", "owner.json"}


def test_a_missing_checkpoint_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    (tmp_path / "run" / NEWEST).unlink()
    with pytest.warns(UserWarning, match=r"there is none.*of step 3"):
        run(tmp_path / "run")
    assert_as_whole(tmp_path / "run", tmp_path)


def test_the_broken_checkpoint_never_becomes_the_one_before(tmp_path: Path) -> None:
    """Else the second damage would leave nothing."""
    stopped(tmp_path)
    _flip(tmp_path / NEWEST, 0.7)
    with pytest.warns(UserWarning, match="step 3"), pytest.raises(CrashError):
        run(tmp_path, report=crash_after(4))
    assert [checkpoint.load(tmp_path / name).progress.step for name in (OLDER, NEWEST)] == [3, 4]


def test_a_killed_rename_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two renames of a save only the one before is there."""
    folder = tmp_path / "run"
    replace, times = Path.replace, 0

    def die(self: Path, target: Path) -> Path:
        nonlocal times
        times += self.name == f".{NEWEST}.partial"
        if times == 4 and self.name == f".{NEWEST}.partial":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert not (folder / NEWEST).exists()
    with pytest.warns(UserWarning, match="of step 3"):
        run(folder)
    assert_as_whole(folder, tmp_path)


def _resigned(path: Path, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """The checkpoint with a change and the right checksum, as a fault of the program would write it."""
    found = change(checkpoint.load(path))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "_Header", checkpoint._Header.model_construct)  # unchecked
        checkpoint.save(path, found)
    checkpoint.previous(path).unlink()


def _progress(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    def change(found: Checkpoint) -> Checkpoint:
        progress = found.progress.model_copy(update=changes)
        return Checkpoint(progress, found.weights, found.optimizer, found.generators)

    return change


def _without_moment(found: Checkpoint) -> Checkpoint:
    slots = dict(found.optimizer[0])
    del slots["exp_avg"]
    return Checkpoint(found.progress, found.weights, {**found.optimizer, 0: slots}, found.generators)


def _wrong_moment(found: Checkpoint) -> Checkpoint:
    slots = {**found.optimizer[0], "exp_avg": torch.zeros(7)}
    return Checkpoint(found.progress, found.weights, {**found.optimizer, 0: slots}, found.generators)


def _one_more(found: Checkpoint) -> Checkpoint:
    return Checkpoint(
        found.progress, found.weights, {**found.optimizer, 99: found.optimizer[0]}, found.generators
    )


def _without_weight(found: Checkpoint) -> Checkpoint:
    weights = {name: weight for name, weight in found.weights.items() if name != "head.bias"}
    return Checkpoint(found.progress, weights, found.optimizer, found.generators)


def _without_generator(found: Checkpoint) -> Checkpoint:
    generators = {name: state for name, state in found.generators.items() if name != "0/regularizer"}
    return Checkpoint(found.progress, found.weights, found.optimizer, generators)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_progress(step=10**9), "1000000000"),
        (_progress(step=6.5), "step"),
        (_progress(step=-1), "step"),
        (_progress(seconds=float("nan")), "seconds"),
        (_progress(software=[]), "software"),
        (_without_moment, "in part"),
        (_wrong_moment, r"shape \[7\]"),
        (_one_more, "none of number 99"),
        (_without_weight, "head.bias"),
        (_without_generator, "regularizer"),
    ],
)
def test_fields_are_typed_and_bounded(
    change: Callable[[Checkpoint], Checkpoint], message: str, tmp_path: Path
) -> None:
    """Under a right checksum, too."""
    stopped(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, of the wrong type that is written here
        _resigned(tmp_path / NEWEST, change)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path)


def test_changed_betas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path)
    monkeypatch.setitem(OPTIMIZERS, "adam", partial(torch.optim.Adam, betas=(0.8, 0.999)))
    with pytest.raises(CheckpointError, match=r"betas\.0 was \[0\.9, 0\.999\], now \[0\.8, 0\.999\]"):
        run(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "changed", "deleted", "a folder"])
def test_a_log_that_is_not_the_checkpoints(damage: str, tmp_path: Path) -> None:
    """Cut below the newest checkpoint's step the one before is taken; below both there is nothing to take."""
    folder = tmp_path / "run"
    stopped(folder)
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "cut":
        path.write_text("".join(lines[:-2]))  # step 4 has a row of the training and one of the test
        with pytest.warns(UserWarning, match=r"log\.jsonl does not begin with.*of step 3"):
            run(folder)
        assert_as_whole(folder, tmp_path)
        return
    path.unlink()
    if damage == "changed":
        path.write_text("".join(lines).replace('"nfe": ', '"nfe": 1', 1))
    elif damage == "a folder":
        path.mkdir()
    with pytest.raises(CheckpointError, match="start over with restart"):
        run(folder)
    if damage != "a folder":
        assert run(folder, restart=True).history[-1]["step"] == 6


def test_what_was_logged_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    stopped(tmp_path / "run")
    with (tmp_path / "run/log.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 5}\n{"kind": garbage')
    run(tmp_path / "run")
    assert_as_whole(tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_score", "abc"),
        ("test_score", float("nan")),
        ("test_score", 101.0),
        ("test_score", -1.0),
        ("test_nfe", 0.0),
        ("train_seconds", True),
        ("seed", 1.5),
        ("history", []),
        ("history", [{"kind": "validation", "step": 0}]),
        ("history", {"step": 0}),
        ("metric", "guess"),
        ("settings", [1]),
        ("unknown", 1),
    ],
)
def test_a_record_with_garbage_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "record.json"
    content = {**json.loads(path.read_text()), name: value}
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"record\.json is no record of a run.*delete it"):
        run(tmp_path)
    with pytest.raises(CheckpointError, match="no record of a run"):
        records.load_all([tmp_path])
    path.unlink()
    assert run(tmp_path) == records.load(path)


def test_a_changed_digit_in_a_record_is_found(tmp_path: Path) -> None:
    record = run(tmp_path)
    path = tmp_path / "record.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "test_nfe": content["test_nfe"] + 1}))
    with pytest.raises(CheckpointError, match="not those that were written"):
        records.load_all([tmp_path])
    del content["sha256"]  # as one of before there was a checksum
    path.write_text(json.dumps(content))
    assert records.load_all([tmp_path]) == [record]


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[1]", '{"steps": NaN}', "\udcff"])
def test_settings_with_garbage_are_refused(content: str, tmp_path: Path) -> None:
    stopped(tmp_path)
    (tmp_path / "settings.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"settings\.json"):
        run(tmp_path)


def test_a_flipped_bit_in_the_weights_alone(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "weights.safetensors"
    _flip(path, 1.0)
    with pytest.raises(CheckpointError, match="not those that were written"):
        checkpoint.load_weights(path, toy())


# -- one owner ----------------------------------------------------------------------------------------------


HOLD = """
import sys, time
from pathlib import Path
from pylocalreg.experiments.owner import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_the_second_process_refuses_and_names_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            for restart in (False, True):
                with pytest.raises(OwnedError, match=f"process {process.pid} on .*which trains there"):
                    run(tmp_path, restart=restart)
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        finally:
            process.kill()
    with pytest.warns(UserWarning, match=f"was not given back by process {process.pid}"):
        run(tmp_path)
    assert not (tmp_path / "owner.json").exists()


def test_an_owner_that_can_not_be_told(tmp_path: Path) -> None:
    with owner.owned(tmp_path):
        (tmp_path / "owner.json").write_text("{")
        with pytest.raises(OwnedError, match="another process"), owner.owned(tmp_path):
            pass
    with owner.owned(tmp_path):
        pass


def test_a_finished_run_is_read_while_another_process_owns_the_folder(tmp_path: Path) -> None:
    record = run(tmp_path)
    with owner.owned(tmp_path):
        assert run(tmp_path) == record


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    """However they meet: one trains to the end as if alone, the other is refused, or finds it done."""
    command = [sys.executable, "-m", "tests.toy", str(tmp_path / "run"), "--steps", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert 0 in [process.returncode for process in both]
    for process, text in zip(both, told, strict=True):
        assert process.returncode == 0 or "OwnedError" in text, text
    assert_as_whole(tmp_path / "run", tmp_path)


# -- the disk -----------------------------------------------------------------------------------------------


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match=str(folder)):
            run(folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["log.jsonl", "settings.json", "weights.safetensors", "record.json"])
def test_a_folder_in_the_place_of_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(LocalRegError, match=name):
        run(tmp_path / "run")


@pytest.mark.parametrize("code", [28, 30], ids=["full", "read-only"])
@pytest.mark.parametrize("call", range(1, 13))
def test_a_disk_that_takes_no_more(
    call: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written from the n-th file on that a run opens for it; afterwards there is room."""
    folder = tmp_path / "run"
    opened, plain = 0, Path.open

    def refuse(self: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
        nonlocal opened
        if mode[0] in "wa":
            opened += 1
            if opened >= call:
                raise OSError(code, os.strerror(code), str(self))
        return plain(self, mode, *others, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(OutputError, match=os.strerror(code)) as raised:
            run(folder)
    assert str(folder) in str(raised.value)
    for name in (NEWEST, OLDER):
        if (folder / name).exists():
            checkpoint.load(folder / name)
    assert not (folder / "record.json").exists()
    run(folder)
    assert_as_whole(folder, tmp_path)


@pytest.mark.parametrize("most", [20, 300, 900, 1500, 5_000, 15_000])
def test_files_that_may_not_grow(most: int, tmp_path: Path) -> None:
    """The system's own limit on a file's size, which ends a write in its middle."""
    resource = pytest.importorskip("resource", reason="no limit on a file's size on Windows")
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "tests.toy", str(folder), "--steps", "6"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "OutputError" in done.stderr.splitlines()[-1]
    assert str(folder) in done.stderr.splitlines()[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(folder)
    assert_as_whole(folder, tmp_path)
