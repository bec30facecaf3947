"""What the tests of SDEs share: a small model, and its accepted steps taken again."""

import torch

import pylocalreg as plr
from pylocalreg.brownian import _Interval
from pylocalreg.engines.base import Problem
from pylocalreg.engines.torch_engine.methods import SDE_METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.neural_sde import Noise
from tests.conftest import Net

METHODS = tuple(sorted(SDE_METHODS))
ADAPTIVE = tuple(name for name in METHODS if "error" in SDE_METHODS[name].estimates)
NOISES: tuple[Noise, ...] = ("diagonal", "scalar", "additive")


class OfTime(torch.nn.Module):
    """A diffusion of additive noise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(-1, 1, width, dtype=torch.float64))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.cos(t)


class Scaled(Net):
    """A diffusion that is not too large."""

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 0.3 * super().forward(t, u)


def sde(solver: str, noise: Noise = "diagonal", width: int = 3, **options: object) -> plr.NeuralSDE:
    diffusion = OfTime(width) if noise == "additive" else Scaled(width, seed=1)
    defaults: dict[str, object] = {"engine": "torch", "abstol": 0.05, "reltol": 0.05}
    if solver not in ADAPTIVE:
        defaults["dt"] = 0.07
    return plr.NeuralSDE(Net(width), diffusion, solver=solver, noise=noise, **(defaults | options))  # type: ignore[arg-type]


def path_on(device: torch.device | str, path: plr.BrownianPath) -> plr.BrownianPath:
    """What was drawn of a path, on another device."""
    moved = plr.BrownianPath(path.start, path.shape, seed=0, dtype=path.dtype, device=device)
    moved._times = list(path.times)
    moved._intervals = [
        _Interval(x.length, x.dW.to(device), None if x.mean is None else x.mean.to(device))
        for x in path._intervals
    ]
    return moved


def problem_of(node: plr.NeuralSDE, noise: plr.BrownianPath | None) -> Problem:
    return Problem(
        node.drift,
        tuple(node.parameters()),
        node.tspan,
        node.solver,
        node.abstol,
        node.reltol,
        1,
        g=node.diffusion,
        noise=noise,
    )


@torch.no_grad()
def taken_again(
    node: plr.NeuralSDE, u0: torch.Tensor, solution: plr.Solution
) -> tuple[list[torch.Tensor], list[float]]:
    """The states before and after every recorded step, and R of each, with the parameters as they are now."""
    problem = problem_of(node, solution.noise)
    stepper = SDE_METHODS[node.solver].stepper(RightHandSide.of(problem), u0, problem)
    states, values = [u0], []
    for t, dt in zip(solution.steps.t, solution.steps.dt, strict=True):
        u, EEst = stepper.attempt(float(t), states[-1], float(dt), None)
        states.append(u)
        values.append(EEst * float(dt))
    return states, values


def at(states: list[torch.Tensor], solution: plr.Solution, time: float) -> torch.Tensor:
    """u(time) on the line between two states."""
    steps = solution.steps
    i = max(j for j, t in enumerate(steps.t) if j == 0 or t < time)
    return torch.lerp(states[i], states[i + 1], float((time - steps.t[i]) / steps.dt[i]))
