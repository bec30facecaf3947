# %% [markdown]
# # A ball that learns how to bounce
#
# Where it hits the ground its velocity turns round and a part of it is lost: an [event](../events.md) with
# an affect. Gradients pass through the times of the bounces, so that what it keeps can be learnt from its
# flight.

# %%
import matplotlib.pyplot as plt
import torch

import pylocalreg as plr

gravity = 9.81
kept = torch.nn.Parameter(torch.tensor(0.6, dtype=torch.float64))


def fall(t, u):  # height, velocity
    return torch.stack([u[1], torch.full_like(u[1], -gravity)])


def bounce(t, u):
    return torch.stack([torch.zeros_like(u[0]), -kept * u[1]])


ground = plr.Event(lambda t, u: u[0], bounce, terminate=False, direction=-1)
times = torch.linspace(0.02, 1.0, 50).tolist()
ball = plr.NeuralODE(fall, (0.0, 1.0), event=ground, saveat=times, abstol=1e-8, reltol=1e-8)
u0 = torch.tensor([1.0, 0.0], dtype=torch.float64)

# %% [markdown]
# The target is the flight of a ball that keeps 0.8; the model starts at 0.6.

# %%
with torch.no_grad():
    kept.fill_(0.8)
    target = ball(u0).u[:, 0]
    kept.fill_(0.6)
optimizer = torch.optim.Adam([kept], lr=0.03)
history, first = [], None
for _ in range(40):
    solution = ball(u0)
    first = solution.u[:, 0].detach() if first is None else first
    loss = (solution.u[:, 0] - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(kept.item())
print(f"kept {kept.item():.3f}; the bounce is at t = {float(solution.events[0].t.detach()):.4f}")

# %%
figure, (left, right) = plt.subplots(1, 2)
left.plot(times, target, label="target")
left.plot(times, first, "--", label="before")
left.plot(times, solution.u[:, 0].detach(), ":", linewidth=3, label="after")
left.set(title="height", xlabel="t")
left.legend()
right.plot(history)
right.axhline(0.8, color="0.5", linewidth=0.8)
right.set(title="what it keeps of its velocity", xlabel="training step")
plt.show()
