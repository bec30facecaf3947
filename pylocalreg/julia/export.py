"""Trained models given back to Julia."""

from typing import Any

import torch

from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.julia_engine.start import start
from pylocalreg.errors import OptionError
from pylocalreg.julia.models import JuliaModel


def to_lux(module: torch.nn.Module) -> tuple[Any, Any, Any]:
    """``(model, ps, st)``, as Lux has a trained model: Julia objects with memory of their own, in test mode.

    Args:
        module: a `NeuralODE`, or dynamics: of a layer description, or made by `lux`. A ``TimeDependent`` is a
            model of ``((x, t), ps, st)``; a ``timed`` Lux model one of x with t behind it.

    Raises:
        OptionError: the dynamics are no Lux layers.
        EngineUnavailableError: there is no Julia.
    """
    from pylocalreg.engines.julia_engine.models import described  # which imports JuliaModel

    dynamics = getattr(module, "dynamics", module)
    if isinstance(dynamics, LayerDynamics):
        rows, running = described(dynamics)
        call: tuple[Any, ...] = ("to_lux", rows, dynamics.timed, running, dynamics.p.detach())
    elif isinstance(dynamics, JuliaModel) and not dynamics.made.is_function:
        p = torch.zeros(1, device="cpu") if dynamics.p is None else dynamics.p.detach()
        call = ("user_to_lux", dynamics.made.handle.value, p, dynamics.state)
    else:
        raise OptionError(
            f"a {type(dynamics).__name__} is no Lux model: to_lux takes layer descriptions and "
            "plr.julia.lux's; of a NeuralSDE give the drift or the diffusion"
        )
    model, ps, st = start().call(*call)
    return model, ps, st
