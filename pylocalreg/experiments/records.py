"""What a finished run leaves for the tables and figures: one JSON file."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pylocalreg.errors import CheckpointError
from pylocalreg.experiments.files import write_json
from pylocalreg.experiments.log import Row


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        experiment, method, seed: which run.
        data: the data's name; it tells a stand-in.
        metric: ``"accuracy"``: the scores are in percent; ``"mse"``: mean squared errors.
        device: the processor's or GPU's name.
        processes: how many trained it together.
        parameters: how many numbers were trained.
        train_score, test_score: over all samples, in evaluation mode.
        train_seconds: the training steps' wall time; evaluation and checkpoints are left out.
        prediction_seconds: median wall time to predict a test batch of ``prediction_batch`` samples.
        test_nfe: calls of the dynamics a test batch, mean over the batches.
        settings: the whole configuration.
        history: rows of test ``score``, ``loss`` and ``nfe`` by training ``step``, with ``seconds`` so far.
    """

    experiment: str
    method: str
    seed: int
    data: str
    metric: str
    device: str
    processes: int
    parameters: int
    train_score: float
    test_score: float
    train_seconds: float
    prediction_seconds: float
    prediction_batch: int
    test_nfe: float
    settings: dict[str, Any]
    history: list[Row]


def save(path: Path, record: Record) -> None:
    write_json(path, dataclasses.asdict(record))


def load(path: Path) -> Record:
    """What `save` wrote.

    Raises:
        CheckpointError: the file is none of `save`'s.
    """
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no record of a run ({error}): delete it, and train again"
        ) from error


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
