"""How `torch.nn.DataParallel` gathers solutions: as named tuples of tensors, which its replicas give."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from pylocalreg.solution import Solution, Stats, Steps

ENGINES = ("torch", "julia")


class OfReplica(tuple[Any, ...]):
    """A replica's solution. Gathered, states stand side by side, counts are added, one replica's steps follow
    the other's, and regularizers are averaged.
    """

    solution: Solution
    _fields = ("u", "regularization", "t", "counts", "steps")

    def __new__(cls, solution: Solution) -> "OfReplica":
        like = tree_leaves(solution.u)[0]

        def tensor(values: Any) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float64, device=like.device)

        counts = [*solution.stats, ENGINES.index(solution.engine)]
        steps = np.stack([solution.steps.t, solution.steps.dt, solution.steps.EEst], axis=1)
        parts = tensor(solution.t[None]), tensor([counts]), tensor(steps)
        self = super().__new__(cls, (solution.u, solution.regularization, *parts))
        self.solution = solution
        return self

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    @classmethod
    def _make(cls, fields: Iterable[Any]) -> Solution:
        u, regularization, t, counts, steps = fields
        *stats, engine = counts.sum(0).long().tolist()
        return Solution(
            u=u,
            t=t[0].cpu().numpy(),
            regularization=None if regularization is None else regularization.mean(),
            stats=Stats(*stats),
            steps=Steps.of(*steps.T.cpu().numpy()),
            engine=ENGINES[min(engine, 1)],
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.solution, name)

    def __call__(self, t: float) -> Any:
        return self.solution(t)
