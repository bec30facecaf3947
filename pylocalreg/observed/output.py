"""What dynamics must give."""

from typing import Any

import torch

from pylocalreg.errors import DeviceError, DtypeError, ShapeError

CALLED = {"diffusion": "g", "event's affect": "affect"}


def check_output(k: Any, t: float, u: torch.Tensor, name: str = "dynamics") -> None:
    """Raise `ShapeError`, `DtypeError` or `DeviceError` where ``k``, f(t, u), is not of the state's kind."""
    if not isinstance(k, torch.Tensor) or k.shape != u.shape:
        got = tuple(k.shape) if isinstance(k, torch.Tensor) else type(k).__name__
        raise ShapeError(
            f"the {name} gave {got} at t = {t:.6g} for a state of shape {tuple(u.shape)}: "
            f"{CALLED.get(name, 'f')}(t, u) must give a tensor of the state's shape"
        )
    if k.dtype != u.dtype:
        raise DtypeError(
            f"the {name} gave {k.dtype} at t = {t:.6g} for a state of {u.dtype}: "
            "move the module or the state to one dtype, as in module.to(u0.dtype)"
        )
    if k.device != u.device:
        raise DeviceError(
            f"the {name} gave a tensor on {k.device} at t = {t:.6g} for a state on {u.device}: "
            "move the module to the state's device"
        )
