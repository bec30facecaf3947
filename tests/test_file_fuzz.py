"""Mutated files: whoever reads one says in an error of ours that it is none, or reads what it says.

``PYLOCALREG_FILES=2000`` mutates so many of each kind; by default 40.
"""

import gzip
import json
import os
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pylocalreg.errors import CheckpointError, ConfigError, DataError, LocalRegError
from pylocalreg.experiments import checkpoint, config, data, identity, log, records, train
from pylocalreg.experiments.checkpoint import Checkpoint, Mark
from pylocalreg.experiments.config import Images
from pylocalreg.experiments.data import cifar10, mnist, physionet
from tests.test_data import RECORD, idx, write_cifar10
from tests.test_faults import stopped
from tests.toy import run, toy

FILES = int(os.environ.get("PYLOCALREG_FILES", "40"))
SECONDS = 10.0  # of the processor's time for one file, which takes some milliseconds

TOKENS = (
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"1e39", b"999999999999999999999999", b"null", b"true", b"0x10"),
    *(
        b"{}",
        b"[",
        b"[[[[[[[[",
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xe2\x82",
        b",",
        b":",
        b" ",
        b"60",
        b"_",
    ),
    *(b"*a", b"&a ", b"!!int ", b"_"),
)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, pieces cut out or doubled, words that readers stumble over."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(found)
        at = int(rng.integers(size + 1))
        other = min(size, at + int(rng.integers(1, 40)))
        match int(rng.integers(8)):
            case 0 if size:
                found[at % size] ^= 1 << int(rng.integers(8))
            case 1 if size:
                found[at % size] = int(rng.integers(256))
            case 2:
                del found[at:other]
            case 3:
                found[at:at] = found[at:other]
            case 4:
                found[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 5:
                found[at:at] = TOKENS[int(rng.integers(len(TOKENS)))]
            case 6:
                found[at:other] = TOKENS[int(rng.integers(len(TOKENS)))]
            case _:
                del found[at:]
    return bytes(found)


def fuzz(
    path: Path, content: bytes, read: Callable[[], object], error: type[LocalRegError], seed: int
) -> Counter[str]:
    """``read`` raises ``error``, or checks what it read by itself."""
    outcomes: Counter[str] = Counter()
    for number in range(FILES):
        mutated = mutate(content, np.random.default_rng([seed, number]))
        path.write_bytes(mutated)
        begun = time.process_time()
        try:
            read()
            outcome = "right"
        except error:
            outcome = "refused"
        except Exception as raised:
            raise AssertionError(f"file {number}: {mutated[:200]!r}") from raised
        assert time.process_time() - begun < SECONDS, f"file {number}"
        outcomes[outcome] += 1
    print(f"{path.name}: {dict(outcomes)}")
    assert outcomes["refused"] > FILES / 20
    return outcomes


# -- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_idx(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("images.gz" if packed else "images")
    whole = idx(np.random.default_rng(0).integers(0, 255, (3, 4, 5), dtype=np.uint8))

    def read() -> None:
        found = mnist.read_idx(path)
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        assert content[:3] == b"\0\0\x08"
        assert content[3] == found.ndim
        assert content[4:] == struct.pack(f">{found.ndim}I", *found.shape) + found.tobytes()

    fuzz(path, gzip.compress(whole) if packed else whole, read, DataError, 1 + packed)


def test_mnist_labels(tmp_path: Path) -> None:
    for name in mnist.SHA256:
        shape = (20, 28, 28) if "images" in name else (20,)
        (tmp_path / name.removesuffix(".gz")).write_bytes(idx(np.ones(shape, np.uint8)))
    path = tmp_path / "train-labels-idx1-ubyte"

    def read() -> None:
        labels = data.load(Images(name="mnist", folder=tmp_path)).train[1].tolist()
        assert bytes(labels) == path.read_bytes()[8:]
        assert len(labels) == 20
        assert max(labels) <= 9

    fuzz(path, path.read_bytes(), read, DataError, 3)


def test_cifar10(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / cifar10.TEST

    def read() -> None:
        images, labels = data.load(Images(name="cifar10", folder=tmp_path)).test
        content = path.read_bytes()
        assert content == b"".join(
            bytes([int(label)]) + bytes(image.flatten().tolist())
            for image, label in zip(images, labels, strict=True)
        )
        assert int(labels.max()) <= 9

    fuzz(path, path.read_bytes(), read, DataError, 4)


def test_physionet(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"

    def read() -> None:
        text = path.read_bytes().decode("ascii", errors="replace")
        sums, counts = physionet.bins(text, path.name, 1.0, 49)
        expected: dict[tuple[int, str], list[float]] = {}
        header, *lines = text.splitlines()
        assert header.strip() == "Time,Parameter,Value"
        for line in lines:
            time_text, name, value = line.strip().split(",")
            assert (len(time_text), time_text[2]) == (5, ":")
            hours, minutes = int(time_text[:2]), int(time_text[3:])
            assert minutes < 60
            assert hours * 60 + minutes <= 48 * 60 or name in physionet.DESCRIPTORS
            assert set(value) <= set("0123456789+-.eE")
            if name not in physionet.DESCRIPTORS and not (name == "Weight" and float(value) < 0):
                assert -100 <= float(value) <= 1e5
                expected.setdefault((round(hours + minutes / 60), name), []).append(float(value))
        assert counts.sum() == sum(len(values) for values in expected.values())
        for (hour, name), values in expected.items():
            place = hour, physionet.INDEX[name]
            assert counts[place] == len(values)
            assert sums[place] == pytest.approx(sum(values), rel=1e-5, abs=1e-5)

    fuzz(path, RECORD.encode(), read, DataError, 5)


CONFIG = b"""task: {name: mnist_node, hidden: 200}
method: local_biased
methods: {local_biased: {samples: 2}}
data: {limit: 100, offline: true}
optimizer: {learning_rate: 0.01, schedule: {kind: cosine, end: 1.0e-5}}
train:
  steps: 1000
  seed: 3
"""


def test_configs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"

    def read() -> None:
        found = config.load(path).model_dump(mode="json")
        given = identity.flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        values = identity.flat(found)
        for name, value in given.items():
            if not isinstance(value, dict):
                assert values[name] == value or float(values[name]) == float(value), name

    fuzz(path, CONFIG, read, ConfigError, 6)


# -- a run's files ------------------------------------------------------------------------------------------


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.progress == other.progress
        and _equal(one.weights, other.weights)
        and _equal(one.generators, other.generators)
        and one.optimizer.keys() == other.optimizer.keys()
        and all(_equal(slots, other.optimizer[index]) for index, slots in one.optimizer.items())
    )


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after four of six steps."""
    folder = tmp_path_factory.mktemp("half")
    stopped(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def test_checkpoints(half: Path, tmp_path: Path) -> None:
    written = half / "checkpoint.safetensors"
    path, expected = tmp_path / written.name, checkpoint.load(written)

    def read() -> None:
        assert _same(checkpoint.load(path), expected)

    fuzz(path, written.read_bytes(), read, CheckpointError, 7)


def test_headers_of_checkpoints(half: Path, tmp_path: Path) -> None:
    """What is no tensor, under a right checksum: a fault of a program, not of a disk."""
    written = half / "checkpoint.safetensors"
    path = tmp_path / written.name
    run_text, tensors = checkpoint._unpacked(written)
    assert run_text is not None
    text = tmp_path / "header"

    def read() -> None:
        changed = text.read_bytes().decode("utf-8", errors="replace")
        path.write_bytes(checkpoint._packed(tensors, changed))
        found = checkpoint.load(path)
        assert json.loads(found.progress.model_dump_json()) == json.loads(changed)["progress"]

    fuzz(text, run_text.encode(), read, CheckpointError, 8)


def test_weights(whole: Path, tmp_path: Path) -> None:
    written = whole / "weights.safetensors"
    path, expected = tmp_path / written.name, load_file(written)

    def read() -> None:
        task = toy(seed=5)
        checkpoint.load_weights(path, task)
        assert _equal(task.state_dict(), expected)

    fuzz(path, written.read_bytes(), read, CheckpointError, 9)


@pytest.mark.parametrize("signed", [True, False])
def test_records(signed: bool, whole: Path, tmp_path: Path) -> None:
    """Without the checksum, as before there was one, a changed digit is not found: bounds and types are."""
    written = whole / "record.json"
    path, expected = tmp_path / written.name, records.load(written)
    content = json.loads(written.read_bytes())
    if not signed:
        del content["sha256"]

    def read() -> None:
        found = records.load(path)
        assert found == expected or not signed
        assert 0 <= found.test_score <= 100

    fuzz(path, json.dumps(content).encode(), read, CheckpointError, 10 + 10 * signed)


def test_settings(half: Path, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    content = (half / path.name).read_bytes()

    def read() -> None:
        train._check_settings(tmp_path, json.loads(content))
        assert json.loads(path.read_bytes()) == json.loads(content)

    fuzz(path, content, read, CheckpointError, 11)


def test_logs(half: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    content = (half / path.name).read_bytes()
    mark: Mark = checkpoint.load(half / "checkpoint.safetensors").progress.log

    def read() -> None:
        for row in log.read(path):
            assert row["kind"] in ("train", "validation")
            assert row["step"] >= 0
        assert log.marked(path, mark) == content

    fuzz(path, content, read, CheckpointError, 12)


def test_folders(half: Path, whole: Path, tmp_path: Path) -> None:
    """One or two of a stopped run's files are mutated: the run ends with the bits of a whole one, or is
    refused and starts over.
    """
    names = ("checkpoint.safetensors", "checkpoint.previous.safetensors", "log.jsonl", "settings.json")
    expected = load_file(whole / "weights.safetensors")
    outcomes: Counter[str] = Counter()
    for number in range(FILES):
        rng = np.random.default_rng([13, number])
        folder = tmp_path / str(number)
        folder.mkdir()
        chosen = rng.choice(names, int(rng.integers(1, 3)), replace=False)
        for name in names:
            content = (half / name).read_bytes()
            (folder / name).write_bytes(mutate(content, rng) if name in chosen else content)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                run(folder)
                outcome = "right, said aloud" if said else "right"
            except CheckpointError:
                outcome = "refused"
                run(folder, restart=True)
        assert _equal(load_file(folder / "weights.safetensors"), expected), f"folder {number}"
        outcomes[outcome] += 1
    print(dict(outcomes))
    assert len(outcomes) == 3
