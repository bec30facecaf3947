"""The user's dynamics as the engine calls them: counted and checked."""

import torch

from pylocalreg.engines.base import Dynamics, Jacobian
from pylocalreg.engines.torch_engine.linearization import Linearization, counted_calls, linearize
from pylocalreg.errors import DeviceError, DtypeError, ShapeError


class RightHandSide:
    """``f(t, u)`` with ``t`` a Python float; counts its calls in ``nfe``.

    Raises:
        ShapeError, DtypeError, DeviceError: what ``f`` gives is not of the state's shape, dtype or device.
    """

    def __init__(self, f: Dynamics) -> None:
        self.f = f
        self.nfe = 0
        self._first: torch.Tensor | None = None

    def __call__(self, t: float, u: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        k = self.f(u.new_full((), t), u)
        if not isinstance(k, torch.Tensor) or k.shape != u.shape:
            got = tuple(k.shape) if isinstance(k, torch.Tensor) else type(k).__name__
            raise ShapeError(
                f"the dynamics gave {got} at t = {t:.6g} for a state of shape {tuple(u.shape)}: "
                "f(t, u) must give a tensor of the state's shape"
            )
        if k.dtype != u.dtype:
            raise DtypeError(
                f"the dynamics gave {k.dtype} at t = {t:.6g} for a state of {u.dtype}: "
                "move the module or the state to one dtype, as in module.to(u0.dtype)"
            )
        if k.device != u.device:
            raise DeviceError(
                f"the dynamics gave a tensor on {k.device} at t = {t:.6g} for a state on {u.device}: "
                "move the module to the state's device"
            )
        return k

    def linearize(self, t: float, u: torch.Tensor, jacobian: Jacobian) -> Linearization:
        """df/du and df/dt at (t, u), counted as the stack does.

        Raises:
            JacobianError: ``f`` can not be differentiated by ``torch.func``.
        """
        self.nfe += counted_calls(u, jacobian)
        return linearize(self.f, t, u, jacobian)

    def owned(self, t: float, u: torch.Tensor) -> torch.Tensor:
        """As a call, but a copy where ``f`` gives its input's memory, or one buffer at every call.

        The time loop keeps the stages and overwrites the inputs.
        """
        k = self(t, u)
        if self._first is None:
            self._first = k  # held, so that no later call can be given this memory by chance
            return k.clone()
        memory = k.untyped_storage().data_ptr()
        if memory in (u.untyped_storage().data_ptr(), self._first.untyped_storage().data_ptr()):
            return k.clone()
        return k
