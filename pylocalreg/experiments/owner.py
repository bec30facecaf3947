"""One owner for a run's folder: a lock that the system takes back from a process that died."""

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from pylocalreg.errors import OwnedError
from pylocalreg.experiments.files import read_bytes, write_text, writing

LOCK, OWNER = "run.lock", "owner.json"


class Owner(BaseModel):
    """The process that trains in a folder."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder belongs to this process inside. Beside the lock stands whose it is; a process that was
    killed leaves that behind, but not the lock, and the next one takes the folder over.

    Raises:
        OwnedError: it belongs to another process, which is named.
        OutputError: no file can be written in the folder.
    """
    lock = FileLock(folder / LOCK)
    with writing(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OwnedError(
                f"{folder} belongs to {_owner(folder) or 'another process'}, which trains there: wait until "
                "it is done, or take another folder"
            ) from error
    try:
        if (before := _owner(folder)) is not None:
            warnings.warn(f"{folder} was not given back by {before}: it is taken over", stacklevel=3)
        me = Owner(pid=os.getpid(), host=socket.gethostname())
        write_text(folder / OWNER, json.dumps(me.model_dump()) + "\n")
        try:
            yield
        finally:
            with writing(folder / OWNER):
                (folder / OWNER).unlink(missing_ok=True)
    finally:
        lock.release()


def _owner(folder: Path) -> Owner | None:
    """None where it can not be told."""
    try:
        return Owner.model_validate_json(read_bytes(folder / OWNER, 1000))
    except (OSError, ValueError, ValidationError):
        return None
