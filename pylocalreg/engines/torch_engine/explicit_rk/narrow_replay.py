"""Steps of a chain that is narrower than its state, reversed among its hidden values."""

from collections.abc import Sequence

import torch

from pylocalreg.engines.base import Problem, StepCotangent, Trajectory
from pylocalreg.engines.torch_engine.explicit_rk.kept import StepGraph
from pylocalreg.engines.torch_engine.explicit_rk.narrow_chain import HiddenCall, NarrowChain
from pylocalreg.engines.torch_engine.explicit_rk.narrow_gradients import NarrowGradients, Sum
from pylocalreg.engines.torch_engine.explicit_rk.narrow_step import NarrowStep
from pylocalreg.engines.torch_engine.explicit_rk.replay import ExplicitRKReplay
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import Tableau


class NarrowReplay(ExplicitRKReplay):
    """But for those with the stiffness estimate, or whose first stage is held constant: call by call."""

    def __init__(
        self,
        chain: NarrowChain,
        f: RightHandSide,
        tableau: Tableau,
        problem: Problem,
        trajectory: Trajectory,
    ) -> None:
        super().__init__(f, tableau, problem, trajectory)
        self.chain = chain
        self.gradients = NarrowGradients(chain, len(problem.params)) if problem.params else None
        if self.gradients is not None:
            self.grad_params = self.gradients

    def reverse(
        self,
        index: int,
        u: torch.Tensor,
        adjoint: torch.Tensor | None,
        inside: Sequence[tuple[float, torch.Tensor]],
        estimate: StepCotangent | None,
    ) -> torch.Tensor | None:
        if estimate is not None and (estimate.quantity != "error" or estimate.gradient == "frozen"):
            return super().reverse(index, u, adjoint, inside, estimate)
        chain, tableau, rows = self.chain, self.tableau, self.chain.rows
        step = self._step(index, rows(u), bool(inside), estimate is not None)
        t, dt = self.trajectory.t[index], step.dt
        sums = [
            Sum.of(chain, tableau.interpolant_weights((time - t) / dt), rows(cotangent))
            for time, cotangent in inside
        ]
        if adjoint is not None:
            sums.append(Sum.of(chain, tableau.b, rows(adjoint)))
        by_u: torch.Tensor | None = None
        if estimate is None:
            z_bar = step.sweep(sums, self.gradients)
        else:
            after = self.trajectory.u.get(index + 1)
            _, by_error, by_new, by_u = step.estimate(
                self.problem,
                estimate.cotangent,
                None if after is None else rows(after),
                to_u=estimate.through_state,
            )
            of_error, of_new = Sum.of(chain, tableau.btilde, by_error), Sum.of(chain, tableau.b, by_new)
            joint = [*sums, of_new] if adjoint is None else [*sums[:-1], sums[-1] + of_new]
            # one sweep for the parameters of both
            z_bar = step.sweep([*joint, of_error], self.gradients, keep_graph=not estimate.through_state)
            if by_u is not None:
                by_u.add_(by_new)
            elif sums:
                z_bar = step.sweep(sums)
            else:
                return None
        adjoint = torch.zeros_like(u) if adjoint is None else adjoint.contiguous()
        for _, cotangent in inside:
            adjoint.add_(cotangent)
        if by_u is not None:
            adjoint.add_(by_u.view_as(u))
        rows(adjoint).addmm_(z_bar, chain.W_in.T)
        return adjoint

    def _step(self, index: int, u: torch.Tensor, interpolated: bool, estimated: bool) -> NarrowStep:
        """The step of this index, with as many stages as are needed."""
        chain, tableau, memory = self.chain, self.tableau, self.trajectory.memory
        t, dt = self.trajectory.t[index], self.trajectory.dt[index]
        stages = tableau.stages if estimated else len(tableau.b)
        if interpolated:
            stages = len(tableau.interpolant)
        kept = memory.get(index)
        graphs = kept.calls if isinstance(kept, StepGraph) else ()
        calls = [call for call in graphs if isinstance(call, HiddenCall)]
        # others were made call by call: the solve was, inside one of PyTorch's modes for functions
        if len(graphs) != stages or len(calls) < stages - 1:
            return NarrowStep.taken(chain, tableau, t, u, dt, stages)
        memory[index] = None  # it serves once: a second backward takes the step again
        if len(calls) < stages:  # the first stage was called without a graph
            with torch.enable_grad():
                calls.insert(0, chain.call_of(u, t))
        return NarrowStep(chain, tableau, u, dt, calls)
