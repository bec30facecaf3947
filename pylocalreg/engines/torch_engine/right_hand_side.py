"""The user's dynamics, or drift and diffusion, as the engine calls them: counted and checked."""

import torch

from pylocalreg.engines.base import Calls, Dynamics, Jacobian, Problem
from pylocalreg.engines.torch_engine.linearization import DenseLinearization, Linearization, counted_calls
from pylocalreg.engines.torch_engine.linearizer import Linearizer
from pylocalreg.engines.torch_engine.one_sided import one_sided
from pylocalreg.errors import NonFiniteError
from pylocalreg.observed.output import check_output


class RightHandSide:
    """``f(t, u)`` with ``t`` a Python float; counts its calls in ``nfe``.

    Attributes:
        diffusion: the other one, where ``f`` is the drift of an SDE.

    Raises:
        ShapeError, DtypeError, DeviceError: what ``f`` gives is not of the state's shape, dtype or device.
    """

    def __init__(self, f: Dynamics, name: str = "dynamics") -> None:
        self.f, self.name = f, name
        self.nfe = 0
        self.diffusion: RightHandSide | None = None
        self._held: list[torch.Tensor] = []
        self._memories: set[int] = set()
        self._linearizer: Linearizer | None = None

    @classmethod
    def of(cls, problem: Problem) -> "RightHandSide":
        f = one_sided(problem.f, problem.steps.tstops)
        if problem.g is None:
            return cls(f)
        drift = cls(f, "drift")
        drift.diffusion = cls(one_sided(problem.g, problem.steps.tstops), "diffusion")
        return drift

    @property
    def calls(self) -> Calls:
        return Calls(self.nfe, 0 if self.diffusion is None else self.diffusion.nfe)

    def __call__(self, t: float, u: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        k = self.f(u.new_full((), t), u)
        if not (
            isinstance(k, torch.Tensor) and k.shape == u.shape and k.dtype is u.dtype and k.device == u.device
        ):
            check_output(k, t, u, self.name)
        return k

    def linearize(self, t: float, u: torch.Tensor, jacobian: Jacobian) -> Linearization:
        """df/du and df/dt at (t, u), counted as the stack does.

        Raises:
            JacobianError: ``f`` can not be differentiated by ``torch.func``.
        """
        self.nfe += counted_calls(u, jacobian)
        return self.linearized_again(t, u, jacobian)

    def linearized_again(self, t: float, u: torch.Tensor, jacobian: Jacobian) -> DenseLinearization:
        """As `linearize`, of a step that is taken again: not counted."""
        if self._linearizer is None:
            self._linearizer = Linearizer(self.f, jacobian)
        return self._linearizer(t, u)

    def owned(self, t: float, u: torch.Tensor) -> torch.Tensor:
        """As a call, but a copy where ``f`` gives its input's memory, or one buffer at every call.

        The time loop keeps the stages and overwrites the inputs.
        """
        k = self(t, u)
        memory = k.untyped_storage().data_ptr()
        if len(self._held) < 2:  # the first may be of another kind of call, made to see what f reaches
            self._held.append(k)  # held, so that no later call can be given this memory by chance
            self._memories.add(memory)
            return k.clone()
        if memory in self._memories or memory == u.untyped_storage().data_ptr():
            return k.clone()
        return k

    def raise_if_not_finite(self, t: float, u: torch.Tensor, where: str) -> None:
        """Raise `NonFiniteError` where ``f``, or the diffusion, is not finite at (t, u)."""
        raise_if_not_finite(self(t, u), f"the {self.name} {where}", "check the parameters and the input")
        if self.diffusion is not None:
            self.diffusion.raise_if_not_finite(t, u, where)


def raise_if_not_finite(x: torch.Tensor, name: str, advice: str) -> None:
    """Raise `NonFiniteError` that counts the bad elements of ``x``, if there are any."""
    finite = torch.isfinite(x)
    if not finite.all():
        bad = int((~finite).sum())
        raise NonFiniteError(f"{name} has {bad} NaN or infinite of {x.numel()} elements: {advice}")
