"""What a module was called with last: where only the state's values are other ones, nothing is read anew."""

from typing import Any

import numpy as np
import torch

from pylocalreg.checks import DTYPES
from pylocalreg.dynamics import LayerDynamics, is_described
from pylocalreg.engines.base import Engine, Problem, Repeat
from pylocalreg.observed.reached import in_forward_mode, transforming
from pylocalreg.solution import Solution
from pylocalreg.times import Times


def can_be_kept(node: Any, u0: Any) -> bool:
    """Whether what a call of a `NeuralODE` with ``u0`` and nothing else comes to can be told from what is
    set on it and from the parameters of its layers.
    """
    times = node.saveat
    return (
        type(u0) is torch.Tensor
        and u0.dtype in DTYPES  # under autocast others become one of these
        and is_described(node.dynamics)
        and "_is_replica" not in node.__dict__  # of torch.nn.DataParallel: each is called once
        and not len(node.events)
        and not node.closed_over
        and node.span.numbers is not None
        and (times is None or times.numbers is not None)
        and not transforming()
    )


class LastCall:
    """A call of a `NeuralODE`, ``settings`` the count of what had been set on it before, and the problem it
    came to. Copies are None.
    """

    def __init__(self, settings: int, node: Any, u0: Any, problem: Problem, times: Times) -> None:
        self.settings, self.problem, self.times = settings, problem, times
        f: LayerDynamics = node.dynamics
        self.f, self.description, self.p, self.of_p = f, f.description, f.p, _of_p(f.p)
        self.events: torch.nn.ModuleList = node.events
        self.shape, self.dtype, self.device = u0.shape, u0.dtype, u0.device
        self._repeat: Repeat | None = None
        self._is_tried = False

    def was(self, node: torch.nn.Module, settings: int, u0: Any) -> bool:
        """Whether a call with ``u0`` comes to the same problem."""
        f, p = self.f, self.p
        return (
            settings == self.settings
            and node._modules.get("dynamics") is f
            and node._modules.get("events") is self.events
            and type(u0) is torch.Tensor
            and not u0.is_nested
            and u0.layout is torch.strided
            and u0.dtype is self.dtype
            and u0.device == self.device
            and u0.shape == self.shape
            and not u0.is_inference()
            and not self.events._modules
            and is_described(f)
            and f.description is self.description
            and f._parameters.get("p") is p
            and _of_p(p) == self.of_p
        )

    def repeated(self, engine: Engine, u0: torch.Tensor, dt: float | None) -> Solution | None:
        """The solution from ``u0`` with the first step ``dt`` by the engine's own way to solve again what no
        gradient is asked of; None where there is none, or a gradient is asked.
        """
        if torch.is_grad_enabled() and (u0.requires_grad or self.problem.params):
            return None
        if transforming() or in_forward_mode():
            return None
        if not self._is_tried:
            self._repeat, self._is_tried = self._way(engine, u0), True
        if self._repeat is None:
            return None
        u, stats, steps, sol = self._repeat(u0, dt)
        return Solution(u, self._t.copy(), None, stats, steps, engine.name, sol=sol)

    def _way(self, engine: Engine, u0: torch.Tensor) -> Repeat | None:
        times = self.times
        if len(times.rows) > len(times.asked):  # some twice
            return None
        self._t = np.array(times.asked)
        return engine.repeat(self.problem, u0, times.asked, times.saved)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _of_p(p: torch.Tensor) -> tuple[object, ...]:
    return p.data_ptr(), p.shape, p.stride(), p.dtype, p.requires_grad
