"""The golden numbers of the SciML stack, as tensors (batch, features), and the models they belong to."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.base import Problem, Trajectory
from pylocalreg.engines.torch_engine.adams.history import is_start
from pylocalreg.engines.torch_engine.adams.step import coefficients
from pylocalreg.engines.torch_engine.explicit_rk.step import differentiable_step
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS, Tableau

DATA = Path(__file__).parent / "data"


@cache
def _index() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((DATA / "index.json").read_text())
    return cases


@cache
def _arrays(kind: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(DATA / f"{kind}.npz") as file:
        return dict(file)


def names(kind: str, **wanted: str) -> list[str]:
    return [
        c["name"] for c in _index() if c["kind"] == kind and all(c.get(k) == v for k, v in wanted.items())
    ]


@dataclass
class Case:
    """One case; ``case["u0"]`` is an array with the state's axes turned to (batch, features)."""

    about: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def load(cls, name: str) -> "Case":
        about = next(c for c in _index() if c["name"] == name)
        prefix = name + "/"
        arrays = {k[len(prefix) :]: v for k, v in _arrays(about["kind"]).items() if k.startswith(prefix)}
        return cls(about, arrays)

    def __getitem__(self, field: str) -> npt.NDArray[Any]:
        return self.arrays[field]

    def state(self, field: str) -> torch.Tensor:
        """A (features, batch) array as a (batch, features) tensor."""
        return torch.from_numpy(np.ascontiguousarray(self.arrays[field].T))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.about["dtype"] == "float32" else torch.float64

    def dynamics(self, part: str, p: torch.Tensor) -> LayerDynamics:
        """The drift or the diffusion of an SDE's case."""
        sizes, acts = self.about[part], self.about[f"{part}_acts"]
        layers = [plr.Dense(i, o, a) for i, o, a in zip(sizes[:-1], sizes[1:], acts, strict=True)]
        module = LayerDynamics(plr.Chain(*layers)).to(self.dtype)
        with torch.no_grad():
            module.p.copy_(p)
        return module

    def node(self, **options: Any) -> plr.NeuralODE:
        """The case's neural ODE with the golden parameters; ``options`` overrule the case's own."""
        sizes, acts = self.about["sizes"], self.about["acts"]
        layers = [plr.Dense(i, o, a) for i, o, a in zip(sizes[:-1], sizes[1:], acts, strict=True)]
        chain = plr.TimeDependent if self.about["time_dependent"] else plr.Chain
        own = {"engine": "torch"}
        if self.about["kind"] == "ode":
            own |= {"solver": self.about["alg"], "abstol": self.about["tol"], "reltol": self.about["tol"]}
        node = plr.NeuralODE(chain(*layers), self.about["tspan"], **(own | options)).to(self.dtype)
        p = node.get_parameter("dynamics.p")
        with torch.no_grad():
            p.copy_(torch.from_numpy(self["p"]))
        return node


class GivenPath(plr.BrownianPath):
    """A path of one step with given increments."""

    def __init__(self, dW: torch.Tensor, dZ: torch.Tensor) -> None:
        super().__init__(0.0, dW.shape, seed=0, dtype=dW.dtype)
        self.given = dW, dZ

    def dW(self, start: float, end: float) -> torch.Tensor:
        return self.given[0]

    def dZ(self, start: float, end: float) -> torch.Tensor:
        return self.given[1]


def distance(a: npt.ArrayLike | torch.Tensor, b: npt.ArrayLike | torch.Tensor) -> float:
    """Largest difference over the largest magnitude of ``b``."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert x.shape == y.shape
    return float(np.abs(x - y).max() / np.abs(y).max()) if y.size else 0.0


def problem(node: plr.NeuralODE) -> Problem:
    """The problem as the engine gets it."""
    return Problem(
        node.dynamics,
        tuple(node.parameters()),
        node.tspan,
        node.solver,
        node.abstol,
        node.reltol,
        node.maxiters,
        node.dt,
    )


@torch.no_grad()
def estimate_rounding(
    node: plr.NeuralODE, t: float, u: torch.Tensor, dt: float, tableau: Tableau | None = None
) -> float:
    """What one rounding of every stage can change in the EEst of a step.

    EEst is the small rest of a sum of large terms: rms(dt sum_i |btilde_i k_i| / scale) machine epsilons.
    """
    tableau = tableau or TABLEAUS[node.solver]
    f = RightHandSide(node.dynamics)
    ks, u_new = differentiable_step(f, tableau, t, u, dt, f(t, u))
    size = sum((abs(dt * w) * k.abs() for w, k in zip(tableau.btilde, ks, strict=True)), torch.zeros_like(u))
    scale = node.abstol + torch.maximum(u.abs(), u_new.abs()) * node.reltol
    return float((size / scale).square().mean().sqrt()) * torch.finfo(u.dtype).eps


@torch.no_grad()
def recorded_rounding(node: plr.NeuralODE, trajectory: Trajectory, index: int) -> float:
    """As `estimate_rounding`, of a recorded step of any method."""
    t, u, dt = trajectory.t[index], trajectory.u[index], trajectory.dt[index]
    if node.solver in TABLEAUS:
        return estimate_rounding(node, t, u, dt)
    history = trajectory.memory[index]
    assert isinstance(history, tuple)
    if is_start(history):
        return estimate_rounding(node, t, u, dt, TABLEAUS["BS3"])
    c = coefficients(dt, history)
    weight = abs(c.g4 - c.g3) if node.solver == "VCABM3" else abs(c.g3)
    f0, f1, f2 = (k.abs() for k in (node.dynamics(u.new_tensor(t), u), history[0].k, history[1].k))
    size = weight * max(c.beta3, 1.0) * (f0 + f1 + c.ratio * (f1 + f2))
    scale = node.abstol + u.abs() * node.reltol
    return float((size / scale).square().mean().sqrt()) * torch.finfo(u.dtype).eps
