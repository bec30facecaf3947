"""The steps of a small state reversed in one compiled call."""

from collections.abc import Sequence

import numpy as np
import torch

from pylocalreg.engines.base import Problem, Trajectory
from pylocalreg.engines.torch_engine.explicit_rk.compiled import (
    CompiledReplay,
    equal_but_for_rounding,
    tensor_step,
)
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import narrow_chain
from pylocalreg.engines.torch_engine.explicit_rk.narrow_replay import NarrowReplay
from pylocalreg.engines.torch_engine.explicit_rk.one_call import (
    ROWS,
    has_outputs,
    is_small,
    known,
    one_call,
    padded,
    quietly,
)
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.explicit_rk.tensor_solve import TensorSolve
from pylocalreg.engines.torch_engine.functional import Tensors
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


def replay(f: RightHandSide, tableau: Tableau, problem: Problem, trajectory: Trajectory) -> ExplicitRKReplay:
    """For reversing the trajectory's steps."""
    chain = narrow_chain(f, tableau, trajectory.u[trajectory.naccept], problem)
    if chain is not None:
        return NarrowReplay(chain, f, tableau, problem, trajectory)
    steps = problem.compiled
    step = None if steps is None else tensor_step(steps, f, tableau, problem)
    if steps is None or step is None:
        return ExplicitRKReplay(f, tableau, problem, trajectory)
    kind = AtOnceReplay if _done_here(problem, trajectory) else CompiledReplay
    return kind(steps, step, f, problem, trajectory)


def _done_here(problem: Problem, trajectory: Trajectory) -> bool:
    return (
        is_small(trajectory.u[trajectory.naccept])
        and len(trajectory.u) == trajectory.naccept + 1
        and all(u.is_contiguous() for u in trajectory.u.values())
        and trajectory.ended is None
        and not problem.steps.tstops
    )


class AtOnceReplay(CompiledReplay):
    """Steps whose estimate nobody asks for are reversed together."""

    def reverse_run(
        self,
        first: int,
        stop: int,
        adjoint: torch.Tensor | None,
        outputs: Sequence[tuple[float, torch.Tensor]],
    ) -> torch.Tensor | None:
        step = TensorSolve(self.step.f, self.tableau)
        if not has_outputs(step, outputs):
            return None
        what = f"the adjoint of solves by {self.tableau.name} at once"
        return quietly(self.steps, what, lambda: self._run(step, first, stop, adjoint, outputs))

    def _run(
        self,
        step: TensorSolve,
        first: int,
        stop: int,
        adjoint: torch.Tensor | None,
        outputs: Sequence[tuple[float, torch.Tensor]],
    ) -> torch.Tensor:
        trajectory, tableau, saving = self.trajectory, self.tableau, bool(outputs)
        taken = [*range(first, stop), *[first] * (-(stop - first) % ROWS)]
        ends = [*trajectory.t[1:], self.problem.tspan[1]]
        rows = np.array([(trajectory.t[i], trajectory.dt[i], ends[i]) for i in taken])
        count = torch.tensor(stop - first, device="cpu")
        states = torch.stack([trajectory.u[i] for i in taken])
        times = padded([time for time, _ in outputs], self.problem)
        by_end = torch.zeros_like(states[0]) if adjoint is None else adjoint.contiguous()
        at_times = states.new_zeros(len(times), *by_end.shape)
        for row, (_, cotangent) in zip(at_times, outputs, strict=False):
            row.copy_(cotangent)
        function = one_call(self.steps, step, "reverse_solve", saving)
        key = known(step.f, states, times)

        def gradients(at_times: torch.Tensor) -> Tensors:
            return function(
                key,
                (step, step.f.own),
                *(step.of_method, step.of_output, count, torch.from_numpy(rows)),
                *(states, by_end, times, at_times),
            )

        def compared() -> frozenset[int]:
            """Which parameters the steps depend on: see `CompiledReplay`."""
            plain, adjoint = ExplicitRKReplay(self.f, tableau, self.problem, trajectory), by_end.clone()
            for i in reversed(range(first, stop)):
                given = plain.reverse(i, trajectory.u[i], adjoint, (), None)
                assert given is not None
                adjoint = given
            right = [adjoint, *plain.grad_params.tensors]
            if not equal_but_for_rounding(gradients(torch.zeros_like(at_times)), right):
                raise RuntimeError("what it gives is not the adjoint of plain steps")
            return frozenset(i for i, gradient in enumerate(right[1:]) if gradient is not None)

        by_u, *by_params = gradients(at_times)
        used = self.steps.get(("reverse_solve", tableau.name, saving, "used", step.f.names), compared)
        self.grad_params.add([x if i in used else None for i, x in enumerate(by_params)])
        return by_u
