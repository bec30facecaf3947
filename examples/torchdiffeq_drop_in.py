"""One import changed: pylocalreg solves a torchdiffeq model, which learns dynamics that are cheap to solve.

Run: pip install 'pylocalreg[experiments]' torchdiffeq, then python examples/torchdiffeq_drop_in.py
"""

from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq

import pylocalreg as plr
from pylocalreg.experiments import digits

# from torchdiffeq import odeint
from pylocalreg.integrations.torchdiffeq import odeint

TOLERANCE = 1e-6
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


class Dynamics(torch.nn.Module):
    """A plain PyTorch right-hand side that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))
        self.nfe = 0

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        out: torch.Tensor = self.layers(u)
        return out


def train(regularizer: plr.Regularizer | None, steps: int = 150) -> tuple[Dynamics, torch.nn.Module]:
    """Dynamics and head after training on 8x8 digits."""
    torch.manual_seed(0)
    data = digits.load()
    f, head = Dynamics().double(), torch.nn.Linear(64, 10).double()
    optimizer = torch.optim.Adam([*f.parameters(), *head.parameters()], lr=0.01)
    for _ in range(steps):
        chosen = torch.randint(len(data.train_y), (128,))
        x, y = data.train_x[chosen], data.train_y[chosen]
        if regularizer is None:
            u, R = odeint(f, x, ENDS, rtol=TOLERANCE, atol=TOLERANCE), 0.0
        else:
            u, R = odeint(f, x, ENDS, rtol=TOLERANCE, atol=TOLERANCE, regularizer=regularizer)
        loss = torch.nn.functional.cross_entropy(head(u[-1]), y) + R
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return f, head


@torch.no_grad()
def evaluate(
    odeint: Callable[..., Any], f: Dynamics, head: torch.nn.Module, tolerance: float = TOLERANCE
) -> tuple[float, int, torch.Tensor]:
    """Test accuracy in percent, NFE of one solve, and the states at its end."""
    data = digits.load()
    f.nfe = 0
    u = odeint(f, data.test_x, ENDS, rtol=tolerance, atol=tolerance)[-1]
    return 100 * float((head(u).argmax(1) == data.test_y).double().mean()), f.nfe, u


if __name__ == "__main__":
    for name, regularizer in (("vanilla", None), ("local", plr.LocalRegularizer("biased"))):
        f, head = train(regularizer)
        for solver in (torchdiffeq.odeint, odeint):
            accuracy, nfe, _ = evaluate(solver, f, head)
            print(f"{name}, solved by {solver.__module__}: test accuracy {accuracy:.1f}%, NFE {nfe}")
        apart = [evaluate(solver, f, head, tolerance=1e-11)[2] for solver in (torchdiffeq.odeint, odeint)]
        print(f"{name}, at 1e-11 the states are apart by {float((apart[0] - apart[1]).abs().max()):.0e}")
