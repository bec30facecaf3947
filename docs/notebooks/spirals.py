# %% [markdown]
# # A spiral seen at irregular times
#
# Noisy points of a spiral, at times of no grid; a neural ODE through them. `saveat` takes the times as they
# are: states between two steps come from the method's dense output and cost nothing.
#
# Here the dynamics themselves are of interest, so there is **no regularizer**: see [why, and when
# not](../why.md).

# %%
import matplotlib.pyplot as plt
import torch

import pylocalreg as plr

torch.manual_seed(0)
times = torch.rand(40).sort().values * 6
truth = torch.stack(
    [torch.exp(-0.2 * times) * torch.cos(times), torch.exp(-0.2 * times) * torch.sin(times)], dim=1
)
seen = truth + 0.03 * torch.randn_like(truth)

# %% [markdown]
# The start is a parameter too. `tspan` ends at the last observation.

# %%
start = torch.nn.Parameter(seen[0].clone())
node = plr.NeuralODE(
    plr.Chain(plr.Dense(2, 32, "tanh"), plr.Dense(32, 2)),
    tspan=(float(times[0]), float(times[-1])),
    saveat=times.tolist(),
    abstol=1e-5,
    reltol=1e-5,
)
optimizer = torch.optim.Adam([*node.parameters(), start], lr=0.02)
losses = []
for step in range(250):
    near = min(len(times), 4 + step // 4)  # first the beginning, then all of it
    loss = (node(start).u - seen)[:near].square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"root mean square error {losses[-1] ** 0.5:.3f}, of which the noise is 0.030")

# %%
with torch.no_grad():
    solution = node(start, dense=True)
    line = torch.stack([solution(float(t)) for t in torch.linspace(float(times[0]), float(times[-1]), 200)])
figure, (left, right) = plt.subplots(1, 2)
left.plot(*line.T, color="C0")
left.plot(*seen.T, "o", color="C1", markersize=4)
left.set(title="observations, and the solution", aspect="equal")
right.semilogy(losses)
right.set(title="mean squared error so far", xlabel="training step")
plt.show()
