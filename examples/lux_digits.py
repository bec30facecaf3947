"""A Lux model from a Julia file, trained from PyTorch on 8x8 digits, with and without the regularizer.

The dynamics are digits_model.jl's; the head, the loss and the optimizer are PyTorch's. What comes out goes
back to Julia as Lux has it: the model, its parameters and its state.

Run: python examples/lux_digits.py (needs scikit-learn and Julia, see docs/julia.md; a minute of one core once
Julia is compiled). It prints 89.1% and 117 NFE without the regularizer, 90.8% and 39 NFE with it.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits

import pylocalreg as plr

MODEL = Path(__file__).parent / "digits_model.jl"
STEPS, BATCH, TRAINED_ON = 240, 128, 1440


def train(regularizer: plr.Regularizer | None) -> plr.NeuralODE:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16), torch.from_numpy(labels)
    dynamics = plr.julia.lux("build(64, 100)", file=MODEL, seed=0).double()
    node = plr.NeuralODE(dynamics, engine="julia", regularizer=regularizer)
    head = torch.nn.Linear(64, 10).double()
    optimizer = torch.optim.Adam([*node.parameters(), *head.parameters()], lr=0.01)
    for _ in range(STEPS):
        batch = torch.randint(TRAINED_ON, (BATCH,))
        solution = node(x[batch])
        loss = torch.nn.functional.cross_entropy(head(solution.u), y[batch])
        if regularizer is not None:
            loss = loss + solution.regularization
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    node.eval()
    with torch.no_grad():
        solution = node(x[TRAINED_ON:])
        right = (head(solution.u).argmax(-1) == y[TRAINED_ON:]).double().mean()
    name = "vanilla" if regularizer is None else "regularized"
    print(f"{name}: {100 * float(right):.1f}% of the test images right, {solution.stats.nfe} NFE")
    return node


if __name__ == "__main__":
    train(None)
    node = train(plr.LocalRegularizer("biased"))
    model, ps, st = plr.julia.to_lux(node)
    print(f"in Julia again: {model}")
