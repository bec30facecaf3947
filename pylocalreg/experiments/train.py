"""Training that may be stopped anywhere: it goes on from its last checkpoint, and ends with the same bits."""

import json
import math
import shutil
import signal
import statistics
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pylocalreg.checks import check_count
from pylocalreg.errors import CheckpointError, NonFiniteError, OptionError, StoppedError
from pylocalreg.experiments import checkpoint, generators, log, records, resume
from pylocalreg.experiments.checkpoint import Checkpoint
from pylocalreg.experiments.clock import clock_of
from pylocalreg.experiments.distributed import Team
from pylocalreg.experiments.files import read_json, write_json, writing
from pylocalreg.experiments.identity import (
    Identity,
    changes,
    describe_data,
    describe_model,
    describe_optimizer,
    flat,
    place,
    software,
)
from pylocalreg.experiments.log import Log
from pylocalreg.experiments.metrics import METRICS
from pylocalreg.experiments.optimizers import Optimization
from pylocalreg.experiments.owner import owned
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.task import Data, Samples, Task

RECORD = "record.json"

LARGEST = 1 << 20
"""Bytes of a run's settings."""


@dataclass(frozen=True)
class Plan:
    """What a run is, and how long.

    Attributes:
        experiment, method, seed: its name; the seed also fixes the order of the data.
        steps: training steps.
        batch: samples a training step, over all processes.
        test_batch: samples a prediction, at most.
        evaluate_every: training steps between two evaluations on the validation part.
        save_every: training steps between two checkpoints.
        settings: everything the run depends on, as JSON holds it: a run is only resumed with the same.
    """

    experiment: str
    method: str
    seed: int
    steps: int
    batch: int
    test_batch: int
    evaluate_every: int
    save_every: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "test_batch", "evaluate_every", "save_every"):
            check_count(name, getattr(self, name))


@dataclass(frozen=True)
class Progress:
    """After ``step`` steps: the last step's loss and NFE, and the last evaluation's score."""

    step: int
    loss: float
    nfe: float
    score: float


Report = Callable[[Progress], None]


def train(
    task: Task,
    data: Data,
    optimization: Optimization,
    plan: Plan,
    folder: Path,
    team: Team,
    *,
    report: Report | None = None,
    tensorboard: bool = False,
    restart: bool = False,
) -> Record:
    """Train ``task`` in ``folder``, from where an earlier call was stopped, or give the record of a run
    that is done.

    The folder holds ``settings.json``, ``log.jsonl`` (a row a step and an evaluation),
    ``checkpoint.safetensors`` and in the end ``weights.safetensors`` and ``record.json``. SIGINT and SIGTERM
    end the run after the step under way, with a checkpoint; a second one ends it at once. On the CPU, with
    the same number of threads, a resumed run has the losses and weights of one that was never stopped, to the
    last bit.

    Args:
        task: on the team's device; on every rank with a generator of its own.
        data: on the team's device.
        optimization: the optimizer of the task's parameters, with its learning rate.
        report: called after every step.
        tensorboard: whether to write TensorBoard's files too.
        restart: whether to drop what the folder holds of an earlier run.

    Raises:
        OptionError: autocast is on; the batch is larger than the data or does not divide among the ranks.
        CheckpointError: the folder holds another run, or damaged files only.
        NonFiniteError: a loss, a score, a weight or a moment is NaN or infinite; the last checkpoint stays.
        OutputError: a file can not be written; the last checkpoint stays.
        OwnedError: another process trains in the folder.
        StoppedError: by a signal.
        TeamError: the ranks differ in data, settings, versions or folder, or one is gone.
    """
    _refuse_autocast(team.device)
    identity = Identity(
        experiment=plan.experiment,
        method=plan.method,
        seed=plan.seed,
        settings=plan.settings,
        plan={
            "steps": plan.steps,
            "batch": plan.batch,
            "test_batch": plan.test_batch,
            "evaluate_every": plan.evaluate_every,
        },
        processes=team.size,
        device=place(task, team.device),
        model=describe_model(task),
        optimizer=describe_optimizer(optimization.optimizer),
        data=describe_data(data),
    )
    team.agree({**flat(identity.model_dump()), "software": software(), "restart": restart})
    run = _Run(task, data, optimization, plan, folder, team, identity)
    done = None if restart else _finished(folder, identity)
    team.agree({"whether the run is done": done is not None})
    if done is not None:
        return done
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(owned(folder))
            if restart:
                _clear(folder)
            _check_settings(folder, {**plan.settings, "processes": team.size})
            resume.settle(folder, identity)

        team.first(take)
        return run.go(report, tensorboard)


class _Run:
    """One call of `train`, from where the folder's checkpoint is."""

    def __init__(
        self,
        task: Task,
        data: Data,
        optimization: Optimization,
        plan: Plan,
        folder: Path,
        team: Team,
        identity: Identity,
    ) -> None:
        self.task, self.data, self.optimization, self.plan = task, data, optimization, plan
        self.folder, self.team, self.identity = folder, team, identity
        self.software = [software()]
        self.batches = Batches(len(data.train[0]), plan.batch, plan.seed)
        self.step, self.seconds, self.score = 0, 0.0, float("nan")
        self.log: Log | None = None
        self.task.train()

    def go(self, report: Report | None, tensorboard: bool) -> Record:
        saved = self.folder / resume.CHECKPOINT
        found = self._resume(saved) if saved.exists() else None
        self.team.agree({"the checkpoint": found and [found.step, found.log.sha256]})
        if found is None:
            self.team.copy_weights(self.task)
        with ExitStack() as stack:
            stop = stack.enter_context(_Stop())
            if self.team.rank == 0:
                mark, step = (None, -1) if found is None else (found.log, found.step)
                self.log = stack.enter_context(Log(self.folder, mark, step, tensorboard))
            if found is None:
                self._validate()
            while self.step < self.plan.steps:
                row = self._train_step()
                last = self.step == self.plan.steps
                if last or self.step % self.plan.evaluate_every == 0:
                    self._validate()
                asked = any(self.team.total([stop.signal]))
                if asked or last or self.step % self.plan.save_every == 0:
                    self._save(saved)
                if report is not None:
                    report(Progress(self.step, row["loss"], row["nfe"], self.score))
                if asked:
                    raise StoppedError(
                        f"stopped after step {self.step} of {self.plan.steps}, which is saved in "
                        f"{self.folder}: the same command goes on from there",
                        stop.signal or signal.SIGTERM,
                    )
        return self._finish()

    def _train_step(self) -> dict[str, float]:
        """One step of the optimizer; its row of the log."""
        rows = self.team.share(self.batches[self.step]).to(self.team.device)
        optimizer = self.optimization.at(self.step)
        clock = clock_of(self.team.device)
        started = clock()
        outcome = self.task(*(part[rows] for part in self.data.train))
        weight = self.task.weight(self.step)
        optimizer.zero_grad()
        (outcome.loss + weight * outcome.regularization).backward()
        self.team.average(p.grad for p in self.task.parameters() if p.grad is not None)
        optimizer.step()
        self.team.average(b for b in self.task.buffers() if b.is_floating_point())
        mine = [float(x.detach()) for x in (outcome.loss, outcome.regularization, outcome.score)]
        self.seconds += clock() - started
        self.step += 1
        lost = self._broken() or not all(math.isfinite(x) for x in mine)
        loss, regularization, score, nfe, nfe_regularizer, broken = (
            total / self.team.size
            for total in self.team.total([*mine, outcome.nfe, outcome.nfe_regularizer, lost])
        )
        row = {
            "loss": loss,
            "regularization": regularization,
            "weight": weight,
            "score": _mean_score(self.task, score, len(rows)),
            "nfe": nfe,
            "nfe_regularizer": nfe_regularizer,
            "learning_rate": self.optimization.rate(self.step - 1),
            "seconds": self.seconds,
        }
        if broken:
            raise NonFiniteError(
                f"loss {loss} and regularizer {regularization} at step {self.step} of {self.plan.steps}: one "
                "of them, a weight or a moment of the optimizer is NaN or infinite after it; take a smaller "
                f"learning rate than {row['learning_rate']:g} or a smaller coefficient than {weight:g}"
            )
        self._write("train", row)
        return row

    def _broken(self) -> bool:
        """Whether a weight, a buffer or one of the optimizer's moments is NaN or infinite."""
        slots = self.optimization.optimizer.state.values()
        moments = [value for slot in slots for value in slot.values() if isinstance(value, torch.Tensor)]
        numbers = [*self.task.state_dict().values(), *moments]
        finite = [part.isfinite().all().to(self.team.device) for part in numbers if part.is_floating_point()]
        return bool(finite) and not bool(torch.stack(finite).all())

    def _validate(self) -> None:
        found = self._evaluate(self.data.validation)
        self.score = found.score
        self._write(
            "validation",
            {"loss": found.loss, "score": found.score, "nfe": found.nfe, "seconds": self.seconds},
        )

    def _evaluate(self, samples: Samples) -> "Evaluation":
        found = evaluate(self.task, samples, self.plan.test_batch, self.team)
        if not (math.isfinite(found.loss) and math.isfinite(found.score)):
            raise NonFiniteError(
                f"loss {found.loss} and score {found.score} of an evaluation after step {self.step} of "
                f"{self.plan.steps}: the weights are finite, what the model makes of some sample is not"
            )
        return found

    def _write(self, kind: str, row: dict[str, float]) -> None:
        if self.log is not None:
            self.log.write(kind, self.step, row)

    def _save(self, path: Path) -> None:
        """A log is on the disk before the checkpoint that stands for it."""
        states = self.team.gather(generators.states(self.task.generators()))
        if self.log is not None:
            progress = checkpoint.Progress(
                identity=self.identity,
                software=self.software,
                step=self.step,
                seconds=self.seconds,
                log=self.log.sync(),
            )
            optimizer = self.optimization.optimizer.state_dict()["state"]
            checkpoint.save(path, Checkpoint(progress, self.task.state_dict(), optimizer, states))

    def _resume(self, path: Path) -> checkpoint.Progress:
        found = resume.restore(path, self.team.rank, self.task, self.optimization.optimizer)
        self.step, self.seconds = found.step, found.seconds
        now = software()
        self.software = [*found.software, *([] if now in found.software else [now])]
        if now not in found.software and self.team.rank == 0:
            warnings.warn(
                f"{path} is of {found.software[-1]}, this is {now}: the run may not have the bits of one "
                "that either trained alone; its record names both",
                stacklevel=2,
            )
        return found

    def _finish(self) -> Record:
        """Scores on all data; the test set is read here alone, and once."""
        train, validation = self._evaluate(self.data.train), self._evaluate(self.data.validation)
        test = self._evaluate(self.data.test)
        record = Record(
            experiment=self.plan.experiment,
            method=self.plan.method,
            seed=self.plan.seed,
            data=self.data.name,
            metric=self.task.metric,
            device=self.identity.device,
            processes=self.team.size,
            parameters=sum(p.numel() for p in self.task.parameters()),
            train_score=train.score,
            validation_score=validation.score,
            test_score=test.score,
            train_seconds=self.seconds,
            prediction_seconds=test.seconds,
            prediction_batch=min(self.plan.test_batch, len(self.data.test[0])),
            test_nfe=test.nfe,
            settings=self.plan.settings,
            history=[row for row in log.read(self.folder / "log.jsonl") if row["kind"] == "validation"],
            samples=self.identity.data,
            software=self.software,
        )

        def write() -> None:
            checkpoint.save_weights(self.folder / "weights.safetensors", self.task)
            records.save(self.folder / RECORD, record)

        self.team.first(write)
        return record


class Batches:
    """The rows of every training step: one shuffle an epoch, whose rest is left out.

    A function of the seed and the step alone, so that a resumed run needs no state of it.

    Raises:
        OptionError: there are fewer samples than a batch takes.
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        if batch > samples:
            raise OptionError(f"batch = {batch} is larger than the training data, {samples} samples")
        self._samples, self._batch, self._seed = samples, batch, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> torch.Tensor:
        epoch, index = divmod(step, self._samples // self._batch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self._samples, generator=generators.seeded(self._seed, epoch))
        return self._order[index * self._batch : (index + 1) * self._batch]


@dataclass(frozen=True)
class Evaluation:
    """Score and loss are means over the samples, NFE over the batches; ``seconds`` is the median of what a
    whole batch took, which other work on the machine moves least.
    """

    score: float
    loss: float
    nfe: float
    seconds: float


def evaluate(task: Task, samples: Samples, batch: int, team: Team) -> Evaluation:
    """In evaluation mode, batch by batch, with the same draws each time and none taken from training."""
    count = len(samples[0])
    batch = min(batch, count)
    score = loss = 0.0
    nfe = 0
    times = []
    clock, training = clock_of(team.device), task.training
    task.eval()
    batches = torch.split(torch.arange(count, device=team.device), batch)
    with torch.no_grad(), generators.aside(task.generators(), seed=0):
        for rows in batches[team.rank :: team.size]:
            chosen = tuple(part[rows] for part in samples)
            started = clock()
            outcome = task(*chosen)
            score += float(outcome.score)
            elapsed = clock() - started
            loss += float(outcome.loss) * len(rows)
            nfe += outcome.nfe
            if len(rows) == batch:
                times.append(elapsed)
    task.train(training)
    median = statistics.median(times) if times else 0.0
    score, loss, calls, seconds, ranks = team.total([score, loss, nfe, median, len(times) > 0])
    return Evaluation(_mean_score(task, score, count), loss / count, calls / len(batches), seconds / ranks)


def _mean_score(task: Task, score: float, samples: int) -> float:
    return METRICS[task.metric].factor * score / samples


def _refuse_autocast(device: torch.device) -> None:
    one = torch.ones(1, 1, device=device)
    if (dtype := (one @ one).dtype) != one.dtype:
        raise OptionError(
            f"torch.autocast to {dtype} is on: an error estimate is a small rest of large terms, of which "
            "half precision keeps no digit; train in torch.float32 or torch.float64, without autocast"
        )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    try:
        before = read_json(path, LARGEST)
        differing = changes(before, json.loads(json.dumps(settings)))
    except (AttributeError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} can not be read ({error}): start over with restart") from error
    if differing:
        raise CheckpointError(_other(folder, differing))


def _finished(folder: Path, identity: Identity) -> Record | None:
    """The record of a run that is done."""
    if not (folder / RECORD).exists():
        return None
    record = records.load(folder / RECORD)
    names = ("experiment", "method", "seed", "processes", "settings")
    before, now = ({name: getattr(run, name) for name in names} for run in (record, identity))
    before["data"], now["data"] = record.samples, identity.data
    if differing := changes(before, now):
        raise CheckpointError(_other(folder, differing))
    return record


def _other(folder: Path, differing: str) -> str:
    return (
        f"{folder} holds a run of other settings ({differing}): take another folder, or start over with "
        "restart"
    )


def _clear(folder: Path) -> None:
    """What a run wrote, the record first: a folder without one is never taken for a finished run."""
    saved = folder / resume.CHECKPOINT
    for path in (
        folder / RECORD,
        saved,
        checkpoint.previous(saved),
        folder / resume.BROKEN,
        folder / "settings.json",
        folder / "weights.safetensors",
        folder / "log.jsonl",
    ):
        with writing(path):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


class _Stop:
    """Remembers that SIGINT or SIGTERM came; the second time they do what they did before.

    Python lets only its main thread set handlers; in another thread signals keep what they do there.
    """

    signal = 0

    def __enter__(self) -> "_Stop":
        main = threading.current_thread() is threading.main_thread()
        wanted = (signal.SIGINT, signal.SIGTERM) if main else ()
        self._before = {number: signal.signal(number, self._ask) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()
