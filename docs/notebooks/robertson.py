# %% [markdown]
# # Robertson's reactions: a stiff problem
#
# Three chemicals whose rates differ by nine orders of magnitude. A Rosenbrock method's steps grow from 1e-4
# to 1e3 along the solve; an explicit method would stay at 1e-3.

# %%
import matplotlib.pyplot as plt
import torch

import pylocalreg as plr


def robertson(t, u):
    a, b, c = u
    slow, fast, faster = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([-slow + fast, slow - fast - faster, faster])


u0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
times = torch.logspace(-5, 4, 100, dtype=torch.float64).tolist()
node = plr.NeuralODE(robertson, (0.0, 1e4), solver="Rodas5P", saveat=times, abstol=1e-8, reltol=1e-6)
solution = node(u0)
print(solution.stats)
print("what is there stays:", float((solution.u.sum(1) - 1).abs().max()))

# %%
explicit = plr.NeuralODE(robertson, (0.0, 5.0), solver="Tsit5", abstol=1e-8, reltol=1e-6)(u0)
print("Tsit5 to t = 5:", explicit.stats.naccept, "steps")

# %%
figure, (left, right) = plt.subplots(1, 2)
for name, chemical, factor in zip(("a", "b, 10,000 times", "c"), solution.u.T, (1, 1e4, 1), strict=True):
    left.semilogx(times, factor * chemical, label=name)
left.set(title="what there is", xlabel="t")
left.legend()
right.loglog(solution.steps.t[1:], solution.steps.dt[1:], ".", label="Rodas5P")
right.loglog(explicit.steps.t[1:], explicit.steps.dt[1:], ".", markersize=2, label="Tsit5, to t = 5")
right.set(title="size of the steps", xlabel="t", ylabel="dt")
right.legend()
plt.show()
