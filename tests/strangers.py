"""What ``torchrun -m tests.strangers FOLDER [late]`` runs on every rank: processes that are not alike, or of
which one stays away.
"""

import dataclasses
import sys
import time
from pathlib import Path

import pytest

from pylocalreg.errors import TeamError
from pylocalreg.experiments.distributed import joined
from pylocalreg.experiments.task import Data
from pylocalreg.experiments.train import Progress
from tests import toy
from tests.toy import run


class CrashError(Exception):
    pass


def crash(progress: Progress) -> None:
    if progress.step == 2:
        raise CrashError


def unlike(folder: Path) -> None:
    with joined() as team:
        whole = toy.data()

        def shorter() -> Data:
            train = tuple(part[: 64 - 16 * team.rank] for part in whole.train)
            return dataclasses.replace(whole, train=train)

        toy.data = shorter
        with pytest.raises(TeamError, match=r"data is .*: 64, 16, 24 .* rank 0, .*: 48, 16, 24 .* rank 1"):
            run(folder / "data", team=team)
        assert not (folder / "data").exists()
        toy.data = lambda: whole

        with pytest.raises(TeamError, match="seed is 0 in rank 0, 1 in rank 1"):
            run(folder / "seed", team=team, seed=team.rank)

        with pytest.raises(CrashError):
            run(folder / "together", team=team, report=crash)
        with pytest.raises(TeamError, match=r"the checkpoint is \[2, '.*'\] in rank 0, None in rank 1"):
            run(folder / "together" if team.rank == 0 else folder / "elsewhere", team=team)

        run(folder / "done", team=team)
        with pytest.raises(TeamError, match="whether the run is done is True in rank 0, False in rank 1"):
            run(folder / "done" if team.rank == 0 else folder / "elsewhere", team=team)

        (folder / "file").write_text("mine")
        with pytest.raises(OSError if team.rank == 0 else TeamError, match=r"file.* can not be written"):
            run(folder / "file", team=team)


def late(folder: Path) -> None:
    with joined(limit=15.0) as team:
        if team.rank == 0:
            with pytest.raises(TeamError, match="rank 0 of 2 did not meet the others within the time limit"):
                team.total([1.0])
            (folder / "given-up").touch()
        while not (folder / "given-up").exists():
            time.sleep(0.1)


if __name__ == "__main__":
    (late if "late" in sys.argv else unlike)(Path(sys.argv[1]))
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    assert not [name for name in threads if "gloo" in name], (
        threads
    )  # one that outlives the group aborts the end
