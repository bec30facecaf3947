"""Many small SDEs with options at random: each ends with a right answer or with a typed error."""

import os
from typing import Any

import numpy as np
import torch

import pylocalreg as plr
from pylocalreg.errors import LocalRegError
from tests.sde import ADAPTIVE, METHODS, NOISES

CASES = int(os.environ.get("PYLOCALREG_SDE_FUZZ", "300"))


class Field(torch.nn.Module):
    """A tiny random vector field, at times a wild one."""

    def __init__(self, rng: np.random.Generator, width: int, additive: bool = False) -> None:
        super().__init__()
        scale = float(rng.choice([0.0, 0.3, 1.0, 1.0, 3.0, 30.0]))
        self.w = torch.nn.Parameter(scale * torch.from_numpy(rng.normal(size=(width, width))))
        self.kind = str(rng.choice(["tanh", "tanh", "linear", "cubic", "jump", "nan", "root"]))
        self.additive = additive
        self.width = width

    def forward(self, t: torch.Tensor, u: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.ones(self.width, dtype=self.w.dtype) * torch.cos(t) if u is None else u
        w = self.w
        if self.kind == "tanh":
            return torch.tanh(x @ w)
        if self.kind == "linear":
            return x @ w
        if self.kind == "cubic":
            return (x @ w) ** 3
        if self.kind == "jump":
            return torch.where(t > 0.5, 10.0, 1.0) * torch.sin(x @ w)
        if self.kind == "root":
            return (x @ w).abs().sqrt()
        return torch.log(x @ w + 2)  # not a number here and there


def case(seed: int) -> tuple[plr.NeuralSDE, torch.Tensor, bool]:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, batch = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    dtype = torch.float32 if rng.random() < 0.3 else torch.float64
    solver, noise = str(rng.choice(METHODS)), str(rng.choice(NOISES))
    start = float(rng.normal())
    span = float(10 ** rng.uniform(-3, 0.5))
    tolerance = float(10 ** rng.uniform(-2.5, 0))
    options: dict[str, Any] = {
        "abstol": tolerance,
        "reltol": tolerance,
        "maxiters": 400,
        "solver": solver,
        "noise": noise,
        "engine": "torch",
        "checkpoints": int(rng.integers(1, 6)) if rng.random() < 0.3 else None,
        "trajectories": int(rng.integers(1, 4)) if rng.random() < 0.3 else None,
    }
    if solver not in ADAPTIVE or rng.random() < 0.2:
        options["dt"] = 0.99 * span / int(rng.integers(1, 40))
        options["adaptive"] = False if rng.random() < 0.5 else None
    if rng.random() < 0.4:
        options["saveat"] = np.sort(rng.uniform(start, start + span, 3)).tolist()
    if solver in ADAPTIVE and rng.random() < 0.7:
        sampling, noise_of_step = rng.choice(["biased", "unbiased"]), rng.choice(["recorded", "fresh", ""])
        options["regularizer"] = (
            plr.GlobalRegularizer()
            if rng.random() < 0.3
            else plr.LocalRegularizer(str(sampling), noise=str(noise_of_step) or None)  # type: ignore[arg-type]
        )
    diffusion = Field(rng, width, noise == "additive")
    node = plr.NeuralSDE(Field(rng, width), diffusion, (start, start + span), **options).to(dtype)
    size = float(rng.choice([0.0, 1.0, 1.0, 1e3]))
    u0 = size * torch.from_numpy(rng.normal(size=(batch, width))).to(dtype)
    return node, u0.requires_grad_(), bool(rng.random() < 0.5)


def run(seed: int) -> str:
    """What became of a case."""
    node, u0, backward = case(seed)
    try:
        solution = node(u0)
    except LocalRegError as error:
        return type(error).__name__
    assert torch.isfinite(solution.u).all()
    steps, stats = solution.steps, solution.stats
    assert len(steps.t) == stats.naccept
    if node.adaptive:
        assert (steps.EEst <= 1).all()
    assert (steps.dt > 0).all()
    ends = steps.t + steps.dt
    scale = 200 * torch.finfo(u0.dtype).eps * max(abs(t) for t in node.tspan)
    np.testing.assert_allclose(steps.t[1:], ends[:-1], rtol=0, atol=scale)
    np.testing.assert_allclose(ends[-1], node.tspan[1], rtol=0, atol=scale)
    assert stats.nreject == 0 or node.adaptive
    with torch.no_grad():
        again = node(u0, noise=solution.noise)
    if len(again.steps.t) == len(steps.t) and np.allclose(again.steps.t, steps.t, rtol=1e-9):
        tolerance = 1e-2 if u0.dtype == torch.float32 else 1e-5
        scale_of_u = float(solution.u.detach().abs().max()) + 1e-6
        assert float((again.u - solution.u.detach()).abs().max()) <= tolerance * scale_of_u
    if backward:
        loss = solution.u.sum()
        if solution.regularization is not None:
            assert float(solution.regularization.detach()) >= 0
            loss = loss + solution.regularization
        loss.backward()  # type: ignore[no-untyped-call]
        assert u0.grad is not None
        assert u0.grad.shape == u0.shape
    return "solved"


def test_every_case_ends_right_or_with_a_typed_error() -> None:
    ended: dict[str, int] = {}
    for seed in range(CASES):
        how = run(seed)
        ended[how] = ended.get(how, 0) + 1
    assert ended["solved"] > CASES / 3
    assert set(ended) <= {"solved", "NonFiniteError", "StepLimitError", "StepUnderflowError"}
    print(ended)
