# %% [markdown]
# # One Brownian path, many solves
#
# `solution.noise` remembers what was drawn. Another solve along it, with other tolerances, another solver
# or another model, sees the same W: errors can be measured path by path.

# %%
import matplotlib.pyplot as plt
import torch

import pylocalreg as plr

torch.manual_seed(0)


def drift(t, u):
    return 2 * u * (1 - u.square())  # two wells, at -1 and 1


def diffusion(t, u):
    return 0.5 * torch.ones_like(u)


u0 = torch.zeros(6, dtype=torch.float64)
times = torch.linspace(0, 2, 200).tolist()
fine = plr.NeuralSDE(drift, diffusion, (0.0, 2.0), saveat=times, abstol=1e-2, reltol=1e-2)(u0)

# %% [markdown]
# The same paths at looser tolerances.

# %%
coarse = {
    tolerance: plr.NeuralSDE(drift, diffusion, (0.0, 2.0), saveat=times, abstol=tolerance, reltol=tolerance)(
        u0, noise=fine.noise
    )
    for tolerance in (1.0, 0.3, 0.1)
}
for tolerance, solution in coarse.items():
    error = float((solution.u[-1] - fine.u[-1]).square().mean().sqrt())
    print(f"tolerance {tolerance:g}: {solution.stats.naccept} steps, error {error:.1e}")

# %%
figure, (left, right) = plt.subplots(1, 2)
left.plot(times, fine.u, color="C0", linewidth=1)
left.plot(times, coarse[1.0].u, "--", color="C1", linewidth=1)
left.set(title="six paths: 0.01, and dashed 1", xlabel="t")
for tolerance, solution in coarse.items():
    right.plot(times, (solution.u - fine.u).abs().mean(1), label=f"{tolerance:g}")
right.set(title="mean distance from the fine solve", xlabel="t", yscale="log")
right.legend()
plt.show()
