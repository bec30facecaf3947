# %% [markdown]
# # Where the steps go
#
# One classifier, trained twice from the same weights: without a regularizer, and with the local error in
# its loss. Points in the plane belong to a disc or to the ring around it; a neural ODE with one dimension
# more carries them, a linear layer reads off the class.

# %%
import matplotlib.pyplot as plt
import torch

import pylocalreg as plr


def rings(n, generator):
    """Points, with a third coordinate of 0, and whether they lie in the inner disc."""
    points = torch.randn(n, 2, generator=generator)
    return torch.nn.functional.pad(points, (0, 1)), (points.norm(dim=1) < 1.1).long()


def train(regularizer, steps=150):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    node = plr.NeuralODE(
        plr.TimeDependent(plr.Dense(3, 32, "tanh"), plr.Dense(32, 3)),
        abstol=1e-6,
        reltol=1e-6,
        regularizer=regularizer,
    ).double()
    head = torch.nn.Linear(3, 2).double()
    optimizer = torch.optim.Adam([*node.parameters(), *head.parameters()], lr=0.03)
    nfe = []
    for _ in range(steps):
        x, y = rings(128, generator)
        solution = node(x.double())
        loss = torch.nn.functional.cross_entropy(head(solution.u), y)
        if regularizer is not None:
            loss = loss + 0.3 * solution.regularization
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        nfe.append(solution.stats.nfe)
    x, y = rings(1000, generator)
    with torch.no_grad():
        solution = node.eval()(x.double())
    accuracy = 100 * (head(solution.u).argmax(1) == y).double().mean()
    return float(accuracy), nfe, solution


# %% [markdown]
# A regularizer is an object, its value comes with the solution. The coefficient, 0.3, is about the size of
# the loss here.

# %%
runs = {"vanilla": train(None), "local": train(plr.LocalRegularizer("biased"))}
for name, (accuracy, _, solution) in runs.items():
    print(f"{name:8} accuracy {accuracy:.1f}%  NFE {solution.stats.nfe}  steps {solution.stats.naccept}")

# %% [markdown]
# Left: evaluations of the dynamics over training. Right: where the solver steps, once trained; each mark is
# the end of a step.

# %%
figure, (left, right) = plt.subplots(1, 2)
for place, (name, (_, nfe, solution)) in enumerate(runs.items()):
    left.plot(nfe, label=name)
    ends = [*solution.steps.t, 1.0]
    right.plot(ends, [place] * len(ends), "|", markersize=24)
left.set(xlabel="training step", ylabel="NFE of a solve", ylim=(0, None))
left.legend()
right.set(xlabel="t", yticks=range(len(runs)), yticklabels=runs, ylim=(-0.7, 1.7))
plt.show()
