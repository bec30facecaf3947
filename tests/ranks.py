"""What ``torchrun -m tests.ranks FOLDER`` runs on every rank, for `tests/test_distributed.py`."""

import os
import signal
import sys
from pathlib import Path

import pytest

from pylocalreg.errors import OptionError, StoppedError
from pylocalreg.experiments.distributed import joined
from pylocalreg.experiments.train import Progress
from tests.toy import run, toy

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with joined() as team:
        # One step of gradient descent at rate 1: what the weights lose is the gradient.
        for name in ("vanilla", "local"):
            task = toy(rank=team.rank, regularize=name == "local", layers=False)
            run(folder / name, 1, task=task, team=team, optimizer="sgd", learning_rate=1.0)

        run(folder / "whole", 6, team=team)

        def stop_one(progress: Progress) -> None:
            if team.rank == 1 and progress.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(StoppedError, match="step 3 of 6"):
            run(folder / "stopped", 6, team=team, report=stop_one)
        run(folder / "stopped", 6, team=team)

        with pytest.raises(OptionError, match="does not divide among 2"):
            team.share(toy().head.weight.new_zeros(3))
