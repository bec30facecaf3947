"""Data parallel training under torchrun: every rank takes its share of each batch, and its own draws."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its functions keep the group there is at their first import, as a default. Imported later (by the first
# optimizer), the group's threads outlive it and, now and then, abort the process at its end.
import torch.distributed.nn

from pylocalreg.errors import LocalRegError, OptionError, TeamError

LIMIT = 600.0
"""Seconds that a process waits for the others: longer than any of them takes for a step or an evaluation."""


@dataclass(frozen=True)
class Team:
    """The processes of a run, of which this is one; a run of one process is a team of one."""

    rank: int
    size: int
    device: torch.device

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """This rank's part of a batch's rows; all parts together are the batch.

        Raises:
            OptionError: the batch does not divide into equal parts.
        """
        if len(rows) % self.size:
            raise OptionError(f"a batch of {len(rows)} does not divide among {self.size} processes")
        return rows.chunk(self.size)[self.rank]

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the ranks: gradients, by the mean loss of the whole batch."""
        if self.size == 1:
            return
        parts = list(tensors)
        if not parts:
            return
        flat = torch.cat([part.reshape(-1) for part in parts])
        with self._meeting():
            dist.all_reduce(flat)
        flat /= self.size
        for part, mean in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each number over the ranks."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with self._meeting():
            dist.all_reduce(sums)
        return [float(value) for value in sums]

    def gather(self, states: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The byte tensors of every rank, as ``rank/name``; of equal names and sizes on each."""
        found: dict[str, torch.Tensor] = {}
        for name, state in states.items():
            every = [torch.empty_like(state) for _ in range(self.size)] if self.size > 1 else [state]
            if self.size > 1:
                with self._meeting():
                    dist.all_gather(every, state)
            found.update({f"{rank}/{name}": part for rank, part in enumerate(every)})
        return found

    def copy_weights(self, module: torch.nn.Module) -> None:
        """Rank 0's parameters and buffers, on every rank."""
        if self.size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                with self._meeting():
                    dist.broadcast(tensor.detach(), 0)

    def tell(self, text: str) -> list[str]:
        """Every rank's text, in the order of the ranks."""
        if self.size == 1:
            return [text]
        mine = text.encode()
        longest = int(max(self.gather({"length": torch.tensor([len(mine)])}).values()))
        padded = torch.zeros(longest + 1, dtype=torch.uint8)
        padded[: len(mine)] = torch.tensor(list(mine), dtype=torch.uint8)
        every = self.gather({"text": padded}).values()
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in every]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Every rank has the same facts, which are JSON.

        Raises:
            TeamError: one has another, on every rank.
        """
        first, *others = (json.loads(text) for text in self.tell(json.dumps(facts)))
        for rank, found in enumerate(others, 1):
            for name in {**first, **found}:
                if first.get(name) != found.get(name):
                    raise TeamError(
                        f"the processes of a run have to be alike: {name} is {first.get(name)!r} in rank 0, "
                        f"{found.get(name)!r} in rank {rank}"
                    )

    def first(self, work: Callable[[], None]) -> None:
        """``work`` by rank 0 while the others wait; all of them end where it fails.

        Raises:
            TeamError: on the other ranks, with what rank 0 raised.
        """
        failure: LocalRegError | None = None
        if self.rank == 0:
            try:
                work()
            except LocalRegError as error:
                failure = error
        told = self.tell("" if failure is None else str(failure))[0]
        if failure is not None:
            raise failure
        if told:
            raise TeamError(f"rank 0: {told}")

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        """What the backend says where a rank does not come, in words."""
        try:
            yield
        except RuntimeError as error:
            raise TeamError(
                f"rank {self.rank} of {self.size} did not meet the others within the time limit, or one of "
                f"them is gone: see what they say, and start all of them again ({error})"
            ) from error


@contextmanager
def joined(device: str = "cpu", limit: float = LIMIT) -> Iterator[Team]:
    """The team torchrun started, or a team of one.

    Args:
        device: ``"cpu"`` (gloo), ``"cuda"`` (nccl, a rank the GPU of its local number) or ``"auto"``, CUDA
            where there is one.
        limit: seconds that the processes wait for each other wherever they meet.

    Raises:
        OptionError: the device does not exist here.
        TeamError: the other processes do not come.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = _device(device, local)
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Team(0, 1, place)
        return
    # States of generators and counts lie on the CPU, gradients on the device.
    backend = "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=limit))
    except RuntimeError as error:
        raise TeamError(f"the other processes did not come within {limit:g} seconds ({error})") from error
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), place)
        with suppress(RuntimeError):  # a rank that is gone is waited for no longer
            dist.barrier()  # torch 2.2 hangs where one leaves after another gave it up
    finally:
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name not in ("cpu", "cuda"):
        raise OptionError(f"device = {name!r} does not exist: choose 'auto', 'cpu' or 'cuda'")
    if name == "cpu":
        return torch.device("cpu")
    if local >= count:
        raise OptionError(f"device = 'cuda': process {local} of this machine finds {count} GPUs")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
