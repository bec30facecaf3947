"""What `plr.plot` draws: a solve's steps and estimates, NFE over training, and a work-precision diagram.

Run: pip install 'pylocalreg[plot]', then python examples/plots.py [PICTURE [STYLE]]
"""

import sys

import matplotlib
import torch

import pylocalreg as plr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TARGET = 60


def model(seed: int = 0) -> plr.NeuralODE:
    torch.manual_seed(seed)
    dynamics = plr.TimeDependent(plr.Dense(2, 64, "tanh"), plr.Dense(64, 2))
    return plr.NeuralODE(
        dynamics, abstol=1e-6, reltol=1e-6, engine="torch", regularizer=plr.LocalRegularizer("biased")
    )


def train(node: plr.NeuralODE, monitor: plr.Monitor | None, steps: int = 200) -> None:
    """Points on a plane learn to turn, far ones further; without a monitor there is no regularizer."""
    optimizer = torch.optim.Adam(node.parameters(), lr=0.02)
    for _ in range(steps):
        x = torch.randn(128, 2)
        angle = 2 * x.square().sum(1, keepdim=True)
        turned = x * angle.cos() + x.flip(1) * torch.tensor([-1.0, 1.0]) * angle.sin()
        solution = node(x, regularize=monitor is not None)
        loss = (solution.u - turned).square().mean()
        loss = loss if monitor is None else loss + monitor(solution)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main(picture: str = "plots.png", style: str = "default") -> None:
    vanilla, node = model(), model()
    monitor = plr.Monitor(plr.schedules.NFEBudget(TARGET, start=0.1))
    train(vanilla, None)
    train(node, monitor)
    x = torch.randn(128, 2)
    with plt.style.context(style):
        figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
        for name, of in (("vanilla", vanilla), ("regularized", node)):
            solution = of(x, regularize=False)
            plr.plot.steps(solution, a, label=f"{name}, {solution.stats.nfe} NFE")
            plr.plot.errors(solution, b, label=name)
            plr.plot.work_precision(of, x, d, label=name)
        plr.plot.training(monitor.history, c, target=TARGET)
        for axis in (a, b, d):
            axis.set_title("")
            axis.legend()
        figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
