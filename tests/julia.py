"""Whether this machine has a Julia to test, and the tests' models."""

import pytest
import torch

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics, Layers
from pylocalreg.engines.julia_engine.start import why_unavailable

REASON = why_unavailable()
needs_julia = pytest.mark.skipif(REASON is not None, reason=f"no Julia: {REASON}")
without_julia = pytest.mark.skipif(REASON is None, reason="there is a Julia")
ENGINES = ["torch", pytest.param("julia", marks=needs_julia)]


def module_of(description: Layers, dtype: torch.dtype, seed: int = 0) -> LayerDynamics:
    """The description's dynamics with weights of a fixed seed, its biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LayerDynamics(description).to(dtype)
    with torch.no_grad():
        module.p.add_(torch.randn(module.p.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return module


def layer_models() -> dict[str, tuple[Layers, tuple[int, ...]]]:
    """Models of every kind of layer and activation, and the shape of their state."""
    models: dict[str, tuple[Layers, tuple[int, ...]]] = {}
    activations = ("tanh", "sigmoid", "relu", "softplus", "swish", "gelu", "elu", "sin", "identity")
    for kind in (plr.Chain, plr.TimeDependent):
        for activation in activations:
            models[f"{kind.__name__}-dense-{activation}"] = (
                kind(plr.Dense(3, 7, activation), plr.Dense(7, 3)),
                (5, 3),
            )
        models[f"{kind.__name__}-deep"] = (
            kind(plr.Dense(4, 8, "tanh"), plr.Dense(8, 6, "swish"), plr.Dense(6, 4, "sin")),
            (3, 4),
        )
        models[f"{kind.__name__}-vector"] = kind(plr.Dense(4, 6, "tanh"), plr.Dense(6, 4)), (4,)
        models[f"{kind.__name__}-sequence"] = kind(plr.Dense(2, 5, "tanh"), plr.Dense(5, 2)), (3, 4, 2)
        models[f"{kind.__name__}-conv"] = (
            kind(plr.Conv(2, 3, 3, "tanh"), plr.Conv(3, 2, 1)),
            (2, 2, 5, 4),
        )
        models[f"{kind.__name__}-conv-groupnorm"] = (
            kind(plr.Conv(2, 4, 3), plr.GroupNorm(4, 2, "tanh"), plr.Conv(4, 2, 3)),
            (2, 2, 4, 4),
        )
        models[f"{kind.__name__}-conv-batchnorm"] = (
            kind(plr.Conv(2, 3, 3), plr.BatchNorm(3, "tanh"), plr.Conv(3, 2, 3)),
            (3, 2, 4, 4),
        )
        models[f"{kind.__name__}-dense-batchnorm"] = (
            kind(plr.Dense(3, 6), plr.BatchNorm(6, "tanh"), plr.Dense(6, 3)),
            (6, 3),
        )
    return models
