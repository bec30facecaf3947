"""States and dense output of a finished solve, those that were not kept taken again from a checkpoint."""

from bisect import bisect_right

import torch

from pylocalreg.engines.base import Problem, Trajectory
from pylocalreg.engines.torch_engine.method import Record
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.one_sided import inside, on_side
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock import Rosenbrock

SEGMENTS_HELD = 2  # a backward solve looks a little across the boundary between two


class Recall:
    """The recorded steps of a trajectory that keeps its stages, all of its states, or checkpoints.

    Steps between two checkpoints are taken again with the sizes they had, so that every state and stage is
    the forward solve's. Memory beside the trajectory's own: two segments between checkpoints, their states
    and, with ``stages``, what dense output needs.
    """

    def __init__(
        self, f: RightHandSide, problem: Problem, trajectory: Trajectory, stages: bool = True
    ) -> None:
        self.f, self.problem, self.trajectory = f, problem, trajectory
        self.method, self.stages = METHODS[problem.solver], stages
        self._segments: dict[int, tuple[list[torch.Tensor], list[Record]]] = {}
        self._checkpoints = sorted(i for i in trajectory.u if i < trajectory.naccept)

    def state(self, index: int) -> torch.Tensor:
        """The state that step ``index`` starts from."""
        kept = self.trajectory.u.get(index)
        return self._step(index)[0] if kept is None else kept

    def at(self, time: float) -> torch.Tensor:
        """u(time) by dense output."""
        i, u, record = self._containing(time)
        return self.method.dense_output(self.trajectory.t[i], u, self.trajectory.dt[i], record, time)

    def velocity(self, time: float) -> torch.Tensor:
        """The time derivative of ``at``, of a method that takes Jacobians."""
        assert isinstance(self.method, Rosenbrock)
        i, _, record = self._containing(time)
        return self.method.dense_velocity(self.trajectory.t[i], self.trajectory.dt[i], record, time)

    def _containing(self, time: float) -> tuple[int, torch.Tensor, Record]:
        """The step that ``time`` lies in: its index, start and record."""
        i = self.trajectory.step_at(inside(self.f.f, time))
        if i in self.trajectory.k:
            return i, self.trajectory.u[i], self.trajectory.k[i]
        return i, *self._step(i)

    def _step(self, index: int) -> tuple[torch.Tensor, Record]:
        start = self._checkpoints[bisect_right(self._checkpoints, index) - 1]
        if start not in self._segments:
            if len(self._segments) == SEGMENTS_HELD:
                del self._segments[next(iter(self._segments))]
            self._segments[start] = self._retake(start)
        states, records = self._segments[start]
        return states[index - start], records[index - start]

    def _retake(self, start: int) -> tuple[list[torch.Tensor], list[Record]]:
        """The steps from a checkpoint up to the next."""
        trajectory = self.trajectory
        after = self._checkpoints[bisect_right(self._checkpoints, start) :]
        end = after[0] if after else trajectory.naccept
        u = trajectory.u[start]
        stepper = self.method.stepper(self.f, u, self.problem)
        states, records = [], []
        for i in range(start, end):
            states.append(u)
            t, dt = trajectory.t[i], trajectory.dt[i]
            with on_side(self.f.f, t, dt):
                u, _ = stepper.attempt(t, u, dt, None)
                records.append(stepper.record() if self.stages else ())
            stepper.accept()
            if i + 1 < end and trajectory.t[i + 1] in self.problem.steps.tstops:
                stepper.cross()
        return states, records
