"""What a finished run leaves for the tables and figures: one JSON file."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.files import read_json, write_json
from pylocalreg.experiments.log import Row
from pylocalreg.experiments.metrics import METRICS, Metric
from pylocalreg.experiments.typed import Count, Index, NotNegative, Positive, Typed, problems

LARGEST = 1 << 26
"""Bytes of a record: a row of the history has some 150."""


class Evaluation(Typed):
    """A row of the log, of one evaluation on the validation part.

    Attributes:
        step: training steps done.
        score, loss: means over the samples.
        nfe: calls of the dynamics a batch.
        seconds: what the training steps took so far.
    """

    kind: Literal["validation"]
    step: Index
    score: float
    loss: float
    nfe: Positive
    seconds: NotNegative


def _evaluation(row: Row) -> Row:
    Evaluation.model_validate(row)
    return row


class Record(Typed):
    """One run.

    Attributes:
        experiment, method, seed: which run.
        data: the data's name; it tells a stand-in.
        metric: ``"accuracy"``: the scores are in percent; ``"mse"``: mean squared errors; ``"nll"``,
            ``"bpd"``: negative log likelihoods in nats a sample, in bits a dimension.
        device: the processor's threads or the GPU's name, and whether steps were compiled.
        processes: how many trained it together.
        parameters: how many numbers were trained.
        train_score, validation_score, test_score: over all samples, in evaluation mode.
        train_seconds: what the training steps took; evaluation and checkpoints are left out. CPU time on one
            thread, wall time on several and on a GPU.
        prediction_seconds: median to predict a test batch of ``prediction_batch`` samples, by the same clock.
        test_nfe: calls of the dynamics a test batch, mean over the batches.
        settings: the whole configuration.
        history: an `Evaluation` each, over training.
        samples: the sizes of the data's three parts, and their digest.
        software: the versions of pylocalreg and torch it was trained with, one after the other.
    """

    experiment: str
    method: str
    seed: Index
    data: str
    metric: Metric
    device: str
    processes: Count
    parameters: Count
    train_score: float
    validation_score: float
    test_score: float
    train_seconds: Positive
    prediction_seconds: Positive
    prediction_batch: Count
    test_nfe: Positive
    settings: dict[str, Any]
    history: Annotated[list[Annotated[Row, AfterValidator(_evaluation)]], Field(min_length=1)]
    samples: str
    software: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _possible(self) -> "Record":
        scores = (
            self.train_score,
            self.validation_score,
            self.test_score,
            *(row["score"] for row in self.history),
        )
        kind = METRICS[self.metric]
        wrong = [score for score in scores if not kind.lowest <= score <= kind.highest]
        if wrong:
            raise ValueError(
                f"a score of {wrong[0]}: the metric {self.metric!r} has none below {kind.lowest} "
                f"or above {kind.highest}"
            )
        return self


def save(path: Path, record: Record) -> None:
    """With a checksum, by which a changed digit is found.

    Raises:
        OutputError: it can not be written.
    """
    content = record.model_dump(mode="json")
    write_json(path, {**content, "sha256": _digest(content)})


def load(path: Path) -> Record:
    """What `save` wrote; records of before there was a checksum have none.

    Raises:
        CheckpointError: the file is none of `save`'s, or not as it was written.
    """
    try:
        content = read_json(path, LARGEST)
        if isinstance(content, dict) and content.pop("sha256", "none") not in ("none", _digest(content)):
            raise ValueError("its numbers are not those that were written")
        return Record.model_validate(content)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no record of a run ({problems(error)}): delete it, and train again"
        ) from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_all(folders: Sequence[Path]) -> list[Record]:
    """Every ``record.json`` in the folders and below.

    Raises:
        CheckpointError: one can not be read, or there is none.
    """
    found = [load(path) for folder in folders for path in sorted(folder.rglob("record.json"))]
    if not found:
        names = ", ".join(str(folder) for folder in folders)
        raise CheckpointError(f"no record of a finished run in {names}: pylocalreg train or sweep makes them")
    return found
