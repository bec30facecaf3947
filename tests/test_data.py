"""Readers of the data sets' own formats, their stand-ins, and broken files."""

import functools
import gzip
import hashlib
import http.server
import io
import math
import os
import shutil
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pylocalreg.errors import DataError
from pylocalreg.experiments import data
from pylocalreg.experiments.config import Images, Points, Records, SmallDigits
from pylocalreg.experiments.data import (
    cifar10,
    download,
    mnist,
    physionet,
    physionet_files,
    points,
    standins,
)
from pylocalreg.experiments.task import Data


def check(found: Data) -> None:
    """The same number of rows in every tensor of a part, and no row in two parts."""
    parts = (found.train, found.validation, found.test)
    for part in parts:
        assert len({len(tensor) for tensor in part}) == 1
        assert len(part[0]) > 0
    rows = [{row.numpy().tobytes() for row in part[0]} for part in parts]
    assert len(set.union(*rows)) == sum(len(some) for some in rows)


def every(found: Data) -> list[torch.Tensor]:
    """All samples, part after part."""
    parts = zip(found.train, found.validation, found.test, strict=True)
    return [torch.cat(tensors) for tensors in parts]


# -- MNIST ----------------------------------------------------------------------------------------------


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, packed: bool) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    rng = np.random.default_rng(0)
    arrays = {}
    for name in mnist.SHA256:
        count = 5 if name.startswith("train") else 3
        shape = (count, 28, 28) if "images" in name else (count,)
        arrays[name] = rng.integers(0, 10, shape, dtype=np.uint8)
        content = idx(arrays[name])
        path = folder / (name if packed else name.removesuffix(".gz"))
        path.write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_from_a_folder(packed: bool, tmp_path: Path) -> None:
    arrays = list(write_mnist(tmp_path, packed).values())
    found = data.load(Images(name="mnist", folder=tmp_path))
    assert found.name == "MNIST, not the official files"
    train_x, train_y, test_x, test_y = (torch.from_numpy(array) for array in arrays)
    assert torch.equal(found.test[0], test_x.reshape(3, 784))
    assert torch.equal(found.test[1], test_y.long())
    (held_back,) = (i for i in range(5) if torch.equal(train_x[i].reshape(-1), found.validation[0][0]))
    rest = [i for i in range(5) if i != held_back]
    assert torch.equal(found.train[0], train_x[rest].reshape(4, 784))
    assert torch.equal(found.train[1], train_y[rest].long())
    assert torch.equal(found.validation[1], train_y[[held_back]].long())
    assert found.train[0].dtype == torch.uint8
    assert found.test[1].dtype == torch.int64


def test_limit(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    found = data.load(Images(name="mnist", folder=tmp_path, limit=2))
    assert [len(part[0]) for part in (found.train, found.validation, found.test)] == [1, 1, 2]
    assert "2 samples" in found.name
    with pytest.raises(DataError, match="of 1 samples none is left"):
        data.load(Images(name="mnist", folder=tmp_path, limit=1))


def test_the_share_for_validation() -> None:
    """Told apart from the rest in every run alike; the test set is as it was."""
    some, more = (data.load(Images(name="mnist", offline=True, validation=share)) for share in (0.1, 0.25))
    assert [len(part[0]) for part in (some.train, some.validation)] == [1293, 144]
    assert [len(part[0]) for part in (more.train, more.validation)] == [1078, 359]
    again = data.load(Images(name="mnist", offline=True))
    for ours, theirs in zip(every(some), every(again), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(some.test[0], more.test[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with"),
        (b"\0\0\x0d\x01", "starts with"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 4) + b"abc", "says 12"),
        (struct.pack(">BBBBI", 0, 0, 8, 3, 4), "its header alone has 16"),
        (struct.pack(">BBBB", 0, 0, 8, 3) + b"\0\0\0", "holds 7 bytes, its header alone has 16"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"abc", "holds 11 bytes, its header says 10"),
        (struct.pack(">BBBBIIII", 0, 0, 8, 4, *[65536] * 4), f"says {2**64 + 20}"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 0), "holds nothing"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28), "holds nothing"),
        (struct.pack(">BBBB", 0, 0, 8, 0) + b"a", "holds nothing"),
    ],
)
def test_broken_idx(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        mnist.read_idx(path)
    packed = tmp_path / "images.gz"
    packed.write_bytes(gzip.compress(b"a" * 100)[:-9])
    with pytest.raises(DataError, match="unpacked"):
        mnist.read_idx(packed)


def test_mnist_of_other_shapes_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match=r"\(5, 28, 28\).*\(4,\)"):
        data.load(Images(name="mnist", folder=tmp_path))


def test_labels_above_nine_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2, 3, 4, 10], np.uint8)))
    with pytest.raises(DataError, match="a label 10: MNIST's labels are 0 to 9"):
        data.load(Images(name="mnist", folder=tmp_path))


def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """4.3 GB of zeros; unpacking stops where no file of the data set reaches."""
    path = tmp_path / "train-images-idx3-ubyte.gz"
    block = gzip.compress(bytes(1 << 24))
    path.write_bytes(block * 257)  # members of a gzip file follow each other
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpacks to more than 268435456 bytes"):
        mnist.read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 30
    tracemalloc.stop()


@pytest.mark.skipif(os.name == "nt", reason="no devices with a path")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"])
@pytest.mark.parametrize("what", ["folder", "zero", "pipe"])
def test_what_is_no_file(what: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"{name} can not be read: it is a folder or a device"):
        data.load(Images(name="mnist", folder=tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="no devices with a path")
def test_what_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "1.txt").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"1\.txt can not be read"):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))
    (tmp_path / "1.txt").unlink()
    (tmp_path / "1.txt").write_bytes(bytes(2 << 20))
    with pytest.raises(DataError, match="more than 1048576 bytes"):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))
    for nowhere in (tmp_path / "none", Path("a\0b"), tmp_path / "1.txt"):
        with pytest.raises(DataError, match="holds no records"):
            data.load(Records(name="physionet", folder=nowhere, bin_hours=1.0))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        data.load(Images(name="mnist", folder=tmp_path))
    with pytest.raises(DataError, match=r"data_batch_1\.bin.*cifar-10-binary"):
        data.load(Images(name="cifar10", folder=tmp_path))
    with pytest.raises(DataError, match="set-a"):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))


# -- CIFAR10 --------------------------------------------------------------------------------------------


def write_cifar10(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    rng = np.random.default_rng(0)
    records = {}
    for name in (*cifar10.TRAIN, cifar10.TEST):
        records[name] = rng.integers(0, 10, (2, cifar10.RECORD), dtype=np.uint8)
        (folder / name).write_bytes(records[name].tobytes())
    return records


def test_cifar10_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / cifar10.BATCHES).mkdir()
    records = write_cifar10(tmp_path / cifar10.BATCHES)
    found = cifar10.load(Images(name="cifar10", folder=tmp_path))
    again = cifar10.load(Images(name="cifar10", folder=tmp_path / cifar10.BATCHES))
    assert found.name == "CIFAR10, not checked by the archive's sum"
    images, labels = found.train
    assert images.shape == (10, 3, 32, 32)
    assert labels.tolist() == [int(r[0]) for name in cifar10.TRAIN for r in records[name]]
    # the third batch's second record, green, row 4, column 5
    assert int(images[5, 1, 4, 5]) == records[cifar10.TRAIN[2]][1, 1 + 1024 + 4 * 32 + 5]
    assert len(found.test[0]) == 2
    for one, other in zip(found.train, again.train, strict=True):
        assert torch.equal(one, other)


def test_broken_cifar10(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / cifar10.TEST).write_bytes(b"\x0b" + bytes(cifar10.RECORD - 1))
    with pytest.raises(DataError, match="label 11"):
        data.load(Images(name="cifar10", folder=tmp_path))
    (tmp_path / cifar10.TEST).write_bytes(bytes(cifar10.RECORD + 1))
    with pytest.raises(DataError, match="3074"):
        data.load(Images(name="cifar10", folder=tmp_path))


# -- PhysioNet ------------------------------------------------------------------------------------------

RECORD = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,-1
00:07,HR,73
00:22,HR,77
01:29,HR,60
01:31,HR,88
00:10,Temp,35.1
47:40,Urine,170
"""


def test_observations_are_averaged_in_bins() -> None:
    sums, counts = physionet.bins(RECORD, "132539.txt", 1.0, 49)
    hr, temp, urine = (physionet.INDEX[name] for name in ("HR", "Temp", "Urine"))
    assert (sums[0, hr], counts[0, hr]) == (150, 2)
    assert (sums[1, hr], counts[1, hr]) == (60, 1)
    assert (sums[2, hr], counts[2, hr]) == (88, 1)
    assert sums[0, temp] == pytest.approx(35.1)
    assert counts[48, urine] == 1
    assert counts.sum() == 6  # the descriptors and the unknown weight are no observations


def test_physionet_from_a_folder(tmp_path: Path) -> None:
    """Two sets of two records; the scale is that of all records: (x - 10) / 50. Times nobody observed
    are left out.
    """
    observations = [[10, 30], [20, 40], [30, 50], [10, 50], []]
    for record, heart_rates in enumerate(observations):
        place = "set-a" if record < 2 else "set-b"
        (tmp_path / place).mkdir(exist_ok=True)
        lines = [f"{hour:02d}:00,HR,{rate}" for hour, rate in zip((0, 24), heart_rates, strict=False)]
        text = "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{record}", *lines])
        (tmp_path / place / f"{record}.txt").write_text(text)
    found = data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))
    values, mask, times = every(found)
    assert found.name == "PhysioNet 2012, not checked by the archives' sums"
    assert [len(part[0]) for part in (found.train, found.validation, found.test)] == [2, 1, 1]
    assert times.tolist() == [[0.0, 0.5]] * 4
    assert mask.sum() == 8
    hr = torch.tensor(sorted(values[:, :, physionet.INDEX["HR"]].tolist()))
    torch.testing.assert_close(hr, torch.tensor([[0.0, 0.4], [0.0, 0.8], [0.2, 0.6], [0.4, 0.8]]))
    assert (values[~mask] == 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with ''"),
        ("Time;Parameter;Value\n", "starts with"),
        ("Time,Parameter,Value\n00:00,HR\n", "line 2"),
        ("Time,Parameter,Value\n00:00,HR,73\n0.5,HR,73\n", "line 3"),
        ("Time,Parameter,Value\n00:00,HR,many\n", "HH:MM,parameter,number"),
        ("Time,Parameter,Value\n00:00,Pulse,73\n", "Pulse"),
        ("Time,Parameter,Value\n49:00,HR,73\n", "48 hours"),
        ("Time,Parameter,Value\n00:00,HR,nan\n", "nan"),
        ("Time,Parameter,Value\n00:00,HR,1e39\n", r"line 2: '00:00,HR,1e39'.*between -100 and 100000"),
        ("Time,Parameter,Value\n00:00,HR,1e999\n", "line 2"),
        ("Time,Parameter,Value\n00:00,HR,-101\n", "line 2"),
        ("Time,Parameter,Value\n00:60,HR,73\n", r"line 2: '00:60,HR,73' is not 'HH:MM"),
        ("Time,Parameter,Value\n1_0:00,HR,73\n", "line 2"),
        ("Time,Parameter,Value\n 1:00,HR,7_3\n", "line 2"),
        ("Time,Parameter,Value\n01:00,HR,7_3\n", "line 2"),
        ("Time,Parameter,Value\n-1:00,HR,73\n", "line 2"),
        ("Time,Parameter,Value\n48:01,HR,73\n", "48 hours"),
        ("Time,Parameter,Value\n00:00,Age,0x1\n", "line 2"),
    ],
)
def test_broken_records(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))


def test_more_bins_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("Time,Parameter,Value\n00:00,HR,73\n")
    monkeypatch.setattr(physionet, "MOST_CELLS", 2 * 49 * 37)
    with pytest.raises(DataError, match=r"3 records or more in 49 bins of 1 hours.*bin_hours larger"):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))


def test_too_few_records(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("Time,Parameter,Value\n00:00,HR,73\n")
    with pytest.raises(DataError, match="1 records"):
        data.load(Records(name="physionet", folder=tmp_path, bin_hours=1.0))


def test_simulated_records_are_of_the_challenges_format(tmp_path: Path) -> None:
    standins.write_records(tmp_path / "one", records=20, seed=3)
    standins.write_records(tmp_path / "two", records=20, seed=3)
    one, two = (
        data.load(Records(name="physionet", folder=tmp_path / n, bin_hours=0.25)) for n in ("one", "two")
    )
    for ours, again in zip(every(one), every(two), strict=True):
        assert torch.equal(ours, again)
    values, mask, times = one.train
    assert values.shape == (14, times.shape[1], 37)
    assert 0 <= float(values.min()) < float(values.max()) <= 1
    gaps = torch.diff(times[0])
    assert (gaps > 0).all()
    # irregular: records are observed at different times, and rarely
    assert 0.01 < float(mask.double().mean()) < 0.2
    assert not torch.equal(mask[0].any(1), mask[1].any(1))


# -- stand-ins ------------------------------------------------------------------------------------------


def test_stand_in_for_mnist() -> None:
    found = data.load(Images(name="mnist", offline=True))
    check(found)
    assert "stand-in" in found.name
    assert found.train[0].shape == (1293, 784)
    assert found.train[0].dtype == torch.uint8
    assert int(found.train[0].max()) == 255
    assert len(found.train[1].bincount()) == 10


def test_stand_in_for_cifar10() -> None:
    found = data.load(Images(name="cifar10", offline=True))
    check(found)
    assert "stand-in" in found.name
    images, labels = found.train
    assert images.shape[1:] == (3, 32, 32)
    assert images.dtype == torch.uint8
    for split in (torch.cat([labels, found.validation[1]]), found.test[1]):
        assert len(set(split.bincount().tolist())) == 1
        assert len(split.bincount()) == 10
        assert (split[:100].bincount(minlength=10) > 0).all()  # shuffled


def test_stand_in_for_physionet() -> None:
    found = data.load(Records(name="physionet", offline=True, bin_hours=1.0))
    check(found)
    assert "stand-in" in found.name
    assert found.train[0].shape == (720, 49, 37)
    assert found.test[2][0].tolist() == pytest.approx([hour / 48 for hour in range(49)])


def test_a_folder_goes_before_offline(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    assert data.load(Images(name="mnist", folder=tmp_path, offline=True)).name.startswith("MNIST")


# -- downloads ------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address a server of this process gives it under; the cache is a folder of its own."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_downloads_are_checked_and_kept(served: tuple[Path, str]) -> None:
    folder, url = served
    path = folder / "data.bin"
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match=r"data\.bin.*hash"):
        download.download(url + "data.bin", "0" * 64)
    right = sha256(path)
    assert download.download(url + "data.bin", right).read_bytes() == b"abc"
    path.unlink()
    assert download.download(url + "data.bin", right).read_bytes() == b"abc"
    with pytest.raises(DataError, match=r"offline=true"):
        download.download(url + "other.bin", right)


def test_downloaded_data_are_those_of_a_folder(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, url = served
    write_mnist(folder, packed=True)
    monkeypatch.setattr(mnist, "URL", url)
    monkeypatch.setattr(mnist, "SHA256", {name: sha256(folder / name) for name in mnist.SHA256})

    binary = tmp_path / "binary"
    binary.mkdir()
    records = write_cifar10(binary)
    archive = folder / cifar10.ARCHIVE
    pack(archive, {f"{cifar10.BATCHES}/{name}": array.tobytes() for name, array in records.items()})
    monkeypatch.setattr(cifar10, "URL", url + archive.name)
    monkeypatch.setattr(cifar10, "SHA256", sha256(archive))

    standins.write_records(tmp_path / "records", records=10)
    texts = {f"set-a/{path.name}": path.read_bytes() for path in (tmp_path / "records/set-a").iterdir()}
    pack(folder / "set-a.tar.gz", texts)
    monkeypatch.setattr(physionet_files, "URL", url)
    sums = {"set-a.tar.gz": sha256(folder / "set-a.tar.gz")}
    monkeypatch.setattr(physionet_files, "SHA256", sums)

    for fetched, own in (
        (Images(name="mnist"), Images(name="mnist", folder=folder)),
        (Images(name="cifar10"), Images(name="cifar10", folder=binary)),
        (
            Records(name="physionet", bin_hours=1.0),
            Records(name="physionet", bin_hours=1.0, folder=tmp_path / "records"),
        ),
    ):
        one, other = data.load(fetched), data.load(own)
        packed = data.load(own.model_copy(update={"folder": folder}))
        assert one.name == packed.name
        assert other.name.startswith(one.name)
        for ours, theirs, theirs_too in zip(every(one), every(other), every(packed), strict=True):
            assert torch.equal(ours, theirs)
            assert torch.equal(ours, theirs_too)


def test_archives_that_are_not_the_official_ones(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    write_cifar10(tmp_path / "bin")
    names = (*cifar10.TRAIN, cifar10.TEST)
    pack(tmp_path / cifar10.ARCHIVE, {name: (tmp_path / "bin" / name).read_bytes() for name in names})
    standins.write_records(tmp_path, records=6)
    texts = {path.name: path.read_bytes() for path in (tmp_path / "set-a").iterdir()}
    shutil.rmtree(tmp_path / "set-a")
    pack(tmp_path / "set-a.tar.gz", {**texts, "../readme": b"no record", "folder.txt/inside": b"none"})
    assert "not the official archive" in data.load(Images(name="cifar10", folder=tmp_path)).name
    records = Records(name="physionet", folder=tmp_path, bin_hours=1.0)
    found = data.load(records)
    assert "not checked" in found.name
    assert sum(len(part[0]) for part in (found.train, found.validation, found.test)) == 6

    pack(tmp_path / "set-a.tar.gz", {"1.txt": b" " * (physionet_files.LARGEST + 1)})
    with pytest.raises(DataError, match=r"set-a\.tar\.gz: 1\.txt holds more than"):
        data.load(records)
    pack(tmp_path / cifar10.ARCHIVE, {cifar10.TEST: b""})
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        data.load(Images(name="cifar10", folder=tmp_path))
    for path in (tmp_path / "set-a.tar.gz", tmp_path / cifar10.ARCHIVE):
        for content in (b"", b"no archive", gzip.compress(b"no archive"), path.read_bytes()[:60]):
            path.write_bytes(content)
            source: Images | Records = records
            if path.name == cifar10.ARCHIVE:
                source = Images(name="cifar10", folder=tmp_path)
            with pytest.raises(DataError, match=path.name):
                data.load(source)


def test_parsed_records_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what they hold: other records, or other bins, are parsed; what is damaged is made anew."""
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(physionet, "WORTH_KEEPING", 10)
    parsed = []
    bins = physionet.bins

    def counted(text: str, where: str, bin_hours: float, count: int) -> Any:
        parsed.append(where)
        return bins(text, where, bin_hours, count)

    monkeypatch.setattr(physionet, "bins", counted)
    standins.write_records(tmp_path / "records", records=10)
    source = Records(name="physionet", folder=tmp_path / "records", bin_hours=1.0)

    def parses(source: Records) -> int:
        parsed.clear()
        assert all(torch.equal(a, b) for a, b in zip(every(data.load(source)), first, strict=False))
        return len(parsed)

    first = every(data.load(source))
    assert parses(source) == 0
    (kept,) = (tmp_path / "cache").iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert parses(source) == 10
    assert parses(source) == 0
    kept.write_bytes(b"short")
    assert parses(source) == 10
    first = []
    assert parses(source.model_copy(update={"bin_hours": 2.0})) == 10
    one = next((tmp_path / "records").rglob("*.txt"))
    one.write_text(one.read_text() + "47:59,HR,80\n")
    assert parses(source) == 10
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")  # nothing can be kept: no harm
    assert parses(source) == 10


# -- points and small digits ----------------------------------------------------------------------------


def test_points_of_every_density() -> None:
    """Of the sizes asked for, the same each time, of mean and spread those of FFJORD's own code."""
    spreads = {}
    for density in points.DENSITIES:
        source = Points.model_validate({"name": "points", "density": density, "samples": 5000})
        found = data.load(source)
        check(found)
        (all_points,) = every(found)
        assert all_points.shape == (10_000, 2)
        assert all_points.dtype == torch.float64
        assert torch.equal(every(data.load(source))[0], all_points)
        assert density in found.name
        assert float(all_points.abs().max()) < 5.5
        spreads[density] = float(all_points.square().sum(1).mean().sqrt())
    # sqrt(E |x|^2), by hand
    wanted = {
        "8gaussians": math.sqrt((16 + 2 * 0.25) / 2),
        "checkerboard": math.sqrt(2 * 16 / 3),
        "circles": math.sqrt(9 * (1 + 0.25) / 2 + 2 * 0.08**2),
        "rings": math.sqrt(9 * (1 + 0.5625 + 0.25 + 0.0625) / 4 + 2 * 0.08**2),
        "pinwheel": 2 * math.sqrt(1 + 0.3**2 + 0.1**2),
        "swissroll": math.sqrt((1.5 * math.pi) ** 2 * 13 / 3 + 2) / 5,
    }
    for density, value in wanted.items():
        assert spreads[density] == pytest.approx(value, rel=0.02), density


def test_points_lie_where_the_density_is() -> None:
    rng = np.random.default_rng(1)
    board = points.draw("checkerboard", 1000, rng)
    assert set((np.floor(board / 2).sum(1) % 2).tolist()) == {0.0}
    radii = np.linalg.norm(points.draw("rings", 1000, rng), axis=1)
    distance = np.abs(radii[:, None] - 3 * np.array([0.25, 0.5, 0.75, 1.0])).min(1)
    assert distance.max() < 5 * 0.08
    blades = np.angle(points.draw("8gaussians", 1000, rng) @ [1, 1j]) / (np.pi / 4)
    assert set((np.round(blades) % 8).tolist()) == set(range(8))
    spirals = points.draw("2spirals", 4000, rng)
    assert abs(spirals.mean()) < 0.1  # as many on either arm


def test_small_digits_are_those_of_scikit_learn() -> None:
    found = data.load(SmallDigits(name="small_digits"))
    (images,) = every(found)
    assert images.shape == (1797, 64)
    assert images.dtype == torch.uint8
    bundled = torch.from_numpy(load_digits().images).reshape(-1, 64).to(torch.uint8)
    ours, theirs = ({row.numpy().tobytes() for row in rows} for rows in (images, bundled))
    assert ours == theirs
