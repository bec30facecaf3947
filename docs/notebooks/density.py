# %% [markdown]
# # A density, by a continuous normalizing flow
#
# Two moons are carried to a normal distribution; the state is a point and the logarithm of how much volume
# grows.

# %%
import math

import matplotlib.pyplot as plt
import torch

import pylocalreg as plr

torch.manual_seed(0)


def moons(n):
    angle, upper = math.pi * torch.rand(n), torch.rand(n) < 0.5
    x = torch.where(upper, torch.cos(angle), 1 - torch.cos(angle)) - 0.5
    y = torch.where(upper, torch.sin(angle), 0.5 - torch.sin(angle)) - 0.25
    return 1.5 * torch.stack([x, y], dim=1) + 0.1 * torch.randn(n, 2)


# %% [markdown]
# The dynamics of a point and of the growth, tr(df/dz). With one hidden layer the trace is written out: no
# automatic differentiation in an evaluation.


# %%
class Flow(torch.nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(3, hidden), torch.nn.Linear(hidden, 2)

    def forward(self, t, state):
        z = torch.cat([state[:, :2], t.expand(len(state), 1)], dim=1)
        h = self.inner(z).tanh()
        slopes = (self.inner.weight[:, :2] * self.outer.weight.T).sum(1)
        return torch.cat([self.outer(h), ((1 - h.square()) * slopes).sum(1, keepdim=True)], dim=1)


flow = plr.NeuralODE(Flow(), abstol=1e-4, reltol=1e-4, regularizer=plr.LocalRegularizer("biased"))


def log_density(points):
    solution = flow(torch.nn.functional.pad(points, (0, 1)))
    z, growth = solution.u[:, :2], solution.u[:, 2]
    return growth - z.square().sum(1) / 2 - math.log(2 * math.pi), solution


optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
for step in range(150):
    found, solution = log_density(moons(256))
    loss = -found.mean()
    optimizer.zero_grad()
    (loss + 0.1 * solution.regularization).backward()
    optimizer.step()
    if step % 50 == 49:
        print(f"step {step + 1}: {loss.item():.3f} nats, NFE {solution.stats.nfe}")

# %% [markdown]
# The density on a grid, and samples: the flow solved backwards from a normal distribution.

# %%
flow.eval()
backwards = plr.NeuralODE(flow.dynamics, tspan=(1.0, 0.0), abstol=1e-4, reltol=1e-4)
axis = torch.linspace(-3, 3, 80)
grid = torch.cartesian_prod(axis, axis)
with torch.no_grad():
    density = log_density(grid)[0].exp().view(80, 80)
    samples = backwards(torch.nn.functional.pad(torch.randn(500, 2), (0, 1))).u[:, :2]
figure, (left, right) = plt.subplots(1, 2)
left.contourf(axis, axis, density.T, levels=12, cmap="viridis")
left.set(title="density", aspect="equal")
right.plot(*moons(500).T, ".", markersize=3, label="data")
right.plot(*samples.T, ".", markersize=3, label="samples")
right.set(title="500 points of each", aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
right.legend(loc="upper right", markerscale=3)
plt.show()
