"""Plain-autograd references the tests compare with, and one thread for all of them."""

from collections.abc import Callable

import torch

from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS, Tableau
from pylocalreg.observed.reached import is_transformed
from pylocalreg.regularizers.sampling import Reservoirs
from pylocalreg.solution import Steps

torch.set_num_threads(1)

TSIT5 = TABLEAUS["Tsit5"]

Dynamics = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def step_stages(
    f: Dynamics, t: float, u: torch.Tensor, dt: float, frozen: bool = False, tableau: Tableau = TSIT5
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """All stages of a step, the interpolant's too, and the new state, written as in the textbook."""
    nodes = (0.0, *tableau.c)
    ks: list[torch.Tensor] = []
    stage = u
    for i, node in enumerate(nodes):
        if i > 0:
            stage = u + dt * sum(
                (a * k for a, k in zip(tableau.a[i - 1], ks, strict=True)), torch.zeros_like(u)
            )
        k = f(u.new_tensor(t + node * dt), stage)
        ks.append(k.detach() if frozen and i == 0 else k)
    return ks, u + dt * sum((b * k for b, k in zip(tableau.b, ks, strict=False)), torch.zeros_like(u))


def step_error(
    f: Dynamics,
    t: float,
    u: torch.Tensor,
    dt: float,
    abstol: float,
    reltol: float,
    frozen: bool = False,
    tableau: Tableau = TSIT5,
) -> torch.Tensor:
    """R = EEst * |dt| of one step, by plain autograd."""
    ks, u_new = step_stages(f, t, u, dt, frozen, tableau)
    error = dt * sum((b * k for b, k in zip(tableau.btilde, ks, strict=False)), torch.zeros_like(u))
    scaled = error / (abstol + torch.maximum(u.abs(), u_new.abs()) * reltol)
    return scaled.square().mean().sqrt() * abs(dt)


def replay(f: Dynamics, u0: torch.Tensor, steps: Steps, tableau: Tableau = TSIT5) -> list[torch.Tensor]:
    """The states before and after every accepted step, by plain autograd through all of them."""
    states = [u0]
    for t, dt in zip(steps.t, steps.dt, strict=True):
        states.append(step_stages(f, float(t), states[-1], float(dt), tableau=tableau)[1])
    return states


def inside(
    f: Dynamics, t: float, u: torch.Tensor, dt: float, time: float, tableau: Tableau = TSIT5
) -> torch.Tensor:
    """The dense output of a step at ``time``, by plain autograd."""
    ks, _ = step_stages(f, t, u, dt, tableau=tableau)
    theta = (time - t) / dt
    weights = [
        sum(c * theta ** (power + 1) for power, c in enumerate(coefficients))
        for coefficients in tableau.interpolant
    ]
    return u + dt * sum((w * k for w, k in zip(weights, ks, strict=True)), torch.zeros_like(u))


def step_containing(steps: Steps, time: float) -> int:
    """Index of the accepted step that ``time`` lies in."""
    sign = 1.0 if steps.dt[0] > 0 else -1.0
    return max(i for i, t in enumerate(steps.t) if i == 0 or sign * (time - t) > 0)


def replay_at(
    f: Dynamics, u0: torch.Tensor, steps: Steps, time: float, tableau: Tableau = TSIT5
) -> torch.Tensor:
    """u(time) by plain autograd through the accepted steps."""
    i = step_containing(steps, time)
    state = replay(f, u0, steps, tableau)[i]
    return inside(f, float(steps.t[i]), state, float(steps.dt[i]), time, tableau)


def drawn_step(steps: Steps, generator: torch.Generator | None = None) -> int:
    """Index of the step that a biased regularizer with this generator draws."""
    draw = Reservoirs(1, "none", generator)
    for i in range(len(steps.t)):
        draw.offer(i, 0.0)
    (index,) = draw.weights
    return index


class Net(torch.nn.Module):
    """A small smooth time-dependent vector field over the last dimension."""

    def __init__(self, width: int, hidden: int = 4, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(0.7 * torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.w1, self.b1, self.w2 = weight(width, hidden), weight(hidden), weight(hidden, width)
        self.c = weight(width)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(u @ self.w1 + self.b1) @ self.w2 + self.c * torch.sin(2 * t) - 0.3 * u


def mask(u: torch.Tensor) -> torch.Tensor:
    """A draw of zeros and twos, made as a GPU's fused dropout is: under torch.func it is another one."""
    if is_transformed(u):
        torch.rand(u.shape)
    return 2 * (torch.rand(u.shape) > 0.5).to(u.dtype)


class Unknown(torch.nn.Module):
    """A field, as a module of which nothing is known."""

    def __init__(self, field: torch.nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k: torch.Tensor = self.field(t, u) if isinstance(self.field, LayerDynamics) else self.field(u)
        return k


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(loss: torch.Tensor, node: torch.nn.Module, u0: torch.Tensor) -> list[torch.Tensor]:
    """By u0 and every parameter."""
    return list(torch.autograd.grad(loss, (u0, *node.parameters())))


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], rtol: float) -> None:
    """Every tensor of ``ours`` is that of ``theirs``, to ``rtol`` of its largest element."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))
