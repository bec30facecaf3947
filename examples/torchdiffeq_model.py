"""Take only the regularizer: a torchdiffeq model, solved by torchdiffeq, learns cheap dynamics.

Run: pip install torchdiffeq, then python examples/torchdiffeq_model.py
"""

import torch
from torchdiffeq import odeint

import pylocalreg as plr
from pylocalreg.experiments import digits

TOLERANCE = 1e-5


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


def train(weight: float, steps: int = 150) -> tuple[float, int]:
    """Test accuracy in percent and NFE of one solve after training on 8x8 digits."""
    torch.manual_seed(0)
    data = digits.load()
    f, head = Dynamics().double(), torch.nn.Linear(64, 10).double()
    steps_taken = plr.StepRecord()
    f.callback_accept_step = steps_taken.accept  # type: ignore[assignment]  # torchdiffeq calls it
    optimizer = torch.optim.Adam([*f.parameters(), *head.parameters()], lr=0.01)
    for _ in range(steps):
        chosen = torch.randint(len(data.train_y), (128,))
        tau = float(torch.rand(()))
        times = torch.tensor([0.0, tau, 1.0], dtype=torch.float64)
        _, u_tau, u = odeint(f, data.train_x[chosen], times, rtol=TOLERANCE, atol=TOLERANCE)
        loss = torch.nn.functional.cross_entropy(head(u), data.train_y[chosen])
        error = plr.local_error(
            f, u_tau.detach(), tau, steps_taken, abstol=TOLERANCE, reltol=TOLERANCE, scale="log"
        )
        optimizer.zero_grad()
        (loss + weight * error).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    f.nfe = 0
    with torch.no_grad():
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        u = odeint(f, data.test_x, times, rtol=TOLERANCE, atol=TOLERANCE)[-1]
        accuracy = 100 * float((head(u).argmax(1) == data.test_y).double().mean())
    return accuracy, f.nfe


if __name__ == "__main__":
    for weight in (0.0, 1.0):
        accuracy, nfe = train(weight)
        print(f"weight {weight:g}: test accuracy {accuracy:.1f}%, NFE {nfe}")
