"""What is run: models with fixed weights, from our own table or from a folder of golden numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pylocalreg.dynamics import Chain, Conv, Dense, GroupNorm, LayerDynamics, Layers, TimeDependent
from pylocalreg.errors import OptionError

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A neural ODE with fixed weights.

    Attributes:
        p: the flat parameter vector.
        u0: the initial state, (batch, ...).
        tau: where the local regularizer is compared.
        golden: what the real stack computed for it, by field, where that is known.
    """

    name: str
    layers: Layers
    p: torch.Tensor
    u0: torch.Tensor
    tspan: tuple[float, float]
    solver: str
    tol: float
    tau: float
    golden: Arrays | None = None

    def dynamics(self) -> LayerDynamics:
        module = LayerDynamics(self.layers).to(self.u0.dtype)
        with torch.no_grad():
            module.p.copy_(self.p)
        return module


_MODELS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    "dense": (Chain(Dense(4, 16, "tanh"), Dense(16, 4)), (8, 4)),
    "timed": (TimeDependent(Dense(4, 16, "swish"), Dense(16, 4)), (8, 4)),
    "conv": (TimeDependent(Conv(2, 4, 3, "tanh"), Conv(4, 2, 3)), (2, 2, 6, 6)),
    "groupnorm": (Chain(Conv(2, 4), GroupNorm(4, 2, "gelu"), Conv(4, 2)), (2, 2, 6, 6)),
}
_SOLVERS = ("Tsit5", "BS3", "DP5", "Vern7", "VCAB3", "VCABM3")


def own_cases() -> list[Case]:
    """Every model with every adaptive explicit solver, float32 and float64."""
    cases = []
    for model, (layers, shape) in _MODELS.items():
        for solver in _SOLVERS:
            for dtype, tol in ((torch.float64, 1e-7), (torch.float32, 1e-4)):
                generator = torch.Generator().manual_seed(0)
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    p = LayerDynamics(layers).p.detach()
                u0 = torch.randn(shape, generator=generator)
                name = f"{model}-{solver}-{str(dtype).removeprefix('torch.')}"
                span = (0.0, 1.0)
                cases.append(Case(name, layers, p.to(dtype), u0.to(dtype), span, solver, tol, 0.37))
    return cases


def golden_cases(folder: Path) -> list[Case]:
    """The cases of a folder of golden numbers: ``index.json`` and ``ode.npz``, Julia-shaped.

    Raises:
        OptionError: the folder has no such files.
    """
    try:
        index: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())
        with np.load(folder / "ode.npz") as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise OptionError(f"{folder} holds no golden numbers (index.json and ode.npz): {error}") from error
    return [_golden_case(about, arrays) for about in index if about["kind"] == "ode"]


def _golden_case(about: dict[str, Any], every: Arrays) -> Case:
    prefix = about["name"] + "/"
    arrays = {name[len(prefix) :]: x for name, x in every.items() if name.startswith(prefix)}
    sizes, acts = about["sizes"], about["acts"]
    layers = [Dense(i, o, act) for i, o, act in zip(sizes[:-1], sizes[1:], acts, strict=True)]
    start, end = about["tspan"]
    return Case(
        about["name"],
        (TimeDependent if about["time_dependent"] else Chain)(*layers),
        torch.from_numpy(arrays["p"]),
        torch.from_numpy(np.ascontiguousarray(arrays["u0"].T)),
        (start, end),
        about["alg"],
        about["tol"],
        float(arrays["taus"][0]) if "taus" in arrays else start + 0.37 * (end - start),
        arrays,
    )
