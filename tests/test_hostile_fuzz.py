# mypy: ignore-errors
"""Random problems as hostile users write them: right against a tight reference, or an error of ours.

``PYLOCALREG_HOSTILE=5000 pytest tests/test_hostile_fuzz.py`` takes more of them.
"""

import math
import os
import random
import warnings

import pytest
import torch
import torchdiffeq

import pylocalreg as plr
from pylocalreg.errors import LocalRegError

CASES = int(os.environ.get("PYLOCALREG_HOSTILE", "100"))
PARTS = 10
NAN, INF = math.nan, math.inf
SOLVERS = ("Tsit5", "BS3", "DP5", "Vern7", "VCAB3", "VCABM3", "Rodas5P")
STYLES = ("module", "lambda", "bound", "path", "in place", "buffer", "noise", "frozen")
ADJOINTS = ("discrete", "interpolating", "backsolve", "gauss", "quadrature")
BAD = {
    "abstol": (0.0, -1.0, NAN, INF, 1e-300, "x", None, 10**400),
    "reltol": (0.0, -1e-3, NAN, "tight", 10**400),
    "tspan": ((0.0, 0.0), (0.0, INF), (NAN, 1.0), (1.0,), "ab", 3, (0, 10**400)),
    "saveat": ([], [2.0], [NAN], [0.5, 0.1], "x", [1j], 10**400),
    "solver": ("Euler5", None, 3, ["Tsit5"], "SOSRI2"),
    "adjoint": ("exact", None, ["discrete"]),
    "dt": (0.0, -0.1, 9.0, NAN, "x"),
    "maxiters": (0, 1, 2, -1, 1.5, "many"),
    "checkpoints": (0, -3, 1.5),
    "regularizer": ("biased", plr.LocalRegularizer, 3),
    "params": (5, (5,), "x"),
    "tstops": ([5.0], [NAN], "x"),
    "dtmax": (0.0, -1.0, NAN),
    "gamma": (0.0, 2.0, NAN),
}
POISONS = ("nan", "inf", "shape", "dtype", "none", "number", "blow-up", "overflow")


class Case:
    """du/dt = a tanh(w u) + b cos(t), with whatever the seed adds."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.seed = seed
        self.dtype = rng.choice((torch.float64,) * 4 + (torch.float32,))
        self.shape = tuple(rng.randint(1, 3) for _ in range(rng.randint(0, 3)))
        self.kind = rng.choice(("tensor", "tensor", "tensor", "tuple", "dict"))
        self.style = rng.choice(
            ("module", "lambda", "bound", "path", "in place", "buffer", "noise", "frozen")
        )
        self.poison = rng.choice(POISONS) if rng.random() < 0.1 else None
        self.hooked = rng.random() < 0.15
        self.learnt_times = rng.random() < 0.2
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        self.u0 = normal(*self.shape).requires_grad_()
        self.a, self.w, self.b = (normal().requires_grad_() for _ in range(3))
        self.weight = normal()
        backwards = rng.random() < 0.3
        length = rng.choice((0.1, 1.0, 2.5))
        self.tspan = (length, 0.0) if backwards else (0.0, length)
        self.saveat = None
        if rng.random() < 0.6:
            times = sorted(rng.choice((0.0, 0.3, 0.3, 0.5, 1.0)) * length for _ in range(rng.randint(1, 4)))
            self.saveat = times[::-1] if backwards else times
        tol = rng.choice((1e-7, 1e-8, 1e-9)) if self.dtype == torch.float64 else rng.choice((1e-4, 1e-5))
        self.options = {
            "solver": rng.choice(SOLVERS),
            "adjoint": rng.choice(ADJOINTS),
            "abstol": tol,
            "reltol": tol,
            "engine": "torch",
        }
        if rng.random() < 0.2:
            self.options["regularizer"] = plr.LocalRegularizer(rng.choice(("unbiased", "biased")))
        if rng.random() < 0.15:
            self.options["tstops"] = [0.5 * length]
        if rng.random() < 0.15:
            self.options["checkpoints"] = rng.randint(1, 5)
        self.bad = rng.choice(sorted(BAD)) if rng.random() < 0.15 else None

    # -- the dynamics, as they are written and as they are meant

    def meant(self, t: torch.Tensor, u: torch.Tensor, noise: torch.Tensor | float = 0.0) -> torch.Tensor:
        a = 2 * self.a if self.style == "path" else self.a
        return a * torch.tanh(self.w * u) + self.b * torch.cos(t) + noise

    def poisoned(self, k: torch.Tensor, u: torch.Tensor) -> object:
        return {
            None: k,
            "nan": k * NAN,
            "inf": k / 0,
            "shape": k.unsqueeze(0),
            "dtype": k.to(torch.float64 if self.dtype == torch.float32 else torch.float32),
            "none": None,
            "number": 3.0,
            "blow-up": 50 * (1 + u**2),
            "overflow": k + torch.finfo(self.dtype).max / 2,
        }[self.poison]

    def written(self) -> object:
        case = self

        def f(t: torch.Tensor, u: torch.Tensor) -> object:
            return case.poisoned(case.meant(t, u), u)

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.held = [case]  # where no parameter is found

            def forward(self, t: torch.Tensor, u: torch.Tensor) -> object:
                return f(t, u)

        buffer = torch.empty(self.shape, dtype=self.dtype)
        path = 2 * self.a

        def in_place(t: torch.Tensor, u: torch.Tensor) -> object:
            before = u.clone()
            k = (u.mul_(case.w).tanh_() * case.a).add_(case.b * torch.cos(t))
            return case.poisoned(k, before)

        def reuses(t: torch.Tensor, u: torch.Tensor) -> object:
            k = case.meant(t, u)
            return case.poisoned(k if torch.is_grad_enabled() else buffer.copy_(k), u)

        def with_path(t: torch.Tensor, u: torch.Tensor) -> object:
            return case.poisoned(path * torch.tanh(case.w * u) + case.b * torch.cos(t), u)

        def noisy(t: torch.Tensor, u: torch.Tensor) -> object:
            return case.poisoned(case.meant(t, u, torch.rand(case.shape, dtype=case.dtype)), u)

        bound = type("Bound", (), {"f": lambda self, t, u: f(t, u)})()
        return {
            "module": Module(),
            "lambda": f,
            "bound": bound.f,
            "path": with_path,
            "in place": in_place,
            "buffer": reuses,
            "noise": noisy,
            "frozen": f,
        }[self.style]

    def of_parts(self, f: object) -> object:
        if self.kind == "tensor":
            return f

        def call(t: torch.Tensor, state: object) -> object:
            first, second = state.values() if self.kind == "dict" else state
            k = f(t, first)
            return {3: k, "y": -second} if self.kind == "dict" else (k, -second)

        return call

    def state(self) -> object:
        other = torch.ones((), dtype=self.dtype)
        if self.kind == "tensor":
            return self.u0
        return {3: self.u0, "y": other} if self.kind == "dict" else (self.u0, other)

    def run(self) -> None:
        if self.style == "frozen":
            self.w.requires_grad_(False)
        if self.hooked:
            self.a.register_hook(lambda g: 3 * g)
        options = self.options | {"tspan": self.tspan, "saveat": self.saveat}
        if self.bad is not None:
            options[self.bad] = self.rng.choice(BAD[self.bad])
        times = None
        if self.learnt_times and self.bad is None:
            times = torch.tensor(self.tspan, dtype=self.dtype, requires_grad=True)
            options["tspan"] = times
        torch.manual_seed(self.seed)
        node = plr.NeuralODE(self.of_parts(self.written()), **options)
        torch.manual_seed(self.seed)
        solution = node(self.state())
        u = solution.u
        u = u if self.kind == "tensor" else u[3] if self.kind == "dict" else u[0]
        wanted = [x for x in (self.u0, self.a, self.w, self.b, times) if x is not None and x.requires_grad]
        loss = (u * self.weight).square().sum()
        ours = torch.autograd.grad(loss, wanted, allow_unused=True, retain_graph=True)
        if solution.regularization is not None and self.poison is None:
            R = torch.autograd.grad(solution.regularization, wanted, allow_unused=True)
            assert all(g is None or bool(torch.isfinite(g).all()) for g in R)
        assert self.poison in (None, "blow-up", "overflow"), "poisoned dynamics were solved"
        if self.poison is None and self.bad is None:
            self.compare(u.detach(), ours, wanted, times)

    def compare(self, u: torch.Tensor, ours: object, wanted: object, times: object) -> None:
        torch.manual_seed(self.seed)
        noise = torch.rand(self.shape, dtype=self.dtype).double() if self.style == "noise" else 0.0
        double = {id(x): x.detach().double().requires_grad_(x.requires_grad) for x in wanted}
        exact = Case(self.seed)
        exact.a, exact.w, exact.b = (double.get(id(x), x.detach().double()) for x in (self.a, self.w, self.b))
        exact.u0 = double[id(self.u0)]
        span = torch.tensor(self.tspan, dtype=torch.float64) if times is None else double[id(times)]
        start, end = span.unbind()
        asked = self.saveat if self.saveat is not None else [None]
        inner = sorted({t for t in asked if t is not None and t != self.tspan[0]})
        inner = inner[::-1] if self.tspan[1] < self.tspan[0] else inner
        grid = [start, *(torch.tensor(t, dtype=torch.float64) for t in inner)]
        if self.saveat is None:
            grid.append(end)
        f = lambda t, u: exact.meant(t, u, noise)  # noqa: E731
        states = (
            [exact.u0, *()]
            if len(grid) == 1
            else list(
                torchdiffeq.odeint(f, exact.u0, torch.stack(grid), method="dopri5", atol=1e-11, rtol=1e-11)
            )
        )
        if self.saveat is None:
            right = states[-1]
        else:
            at = dict(zip([self.tspan[0], *inner], states, strict=True))
            # a time that stays where it is while the start moves
            at[self.tspan[0]] = exact.u0 - f(start, exact.u0) * (start - start.detach())
            right = torch.stack([at[t] for t in self.saveat])
        tol = self.options["abstol"]
        bound = 3e3 * tol
        torch.testing.assert_close(u.double(), right.detach(), rtol=bound, atol=bound)
        loss = (right * self.weight.double()).square().sum()
        theirs = torch.autograd.grad(loss, [double[id(x)] for x in wanted], allow_unused=True)
        scale = 1 + max((float(g.abs().max()) for g in theirs if g is not None), default=0.0)
        for x, one, other in zip(wanted, ours, theirs, strict=True):
            if self.hooked and x is self.a and other is not None:
                other = 3 * other
            one = torch.zeros_like(x) if one is None else one
            other = torch.zeros_like(x).double() if other is None else other
            torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=30 * bound * scale)


@pytest.mark.parametrize("part", range(PARTS))
def test_right_or_an_error_of_ours(part: int) -> None:
    refused = 0
    for seed in range(part, CASES, PARTS):
        case = Case(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case.run()
        except LocalRegError:
            refused += 1
            no_jacobian = case.options["solver"] == "Rodas5P" and case.style == "buffer"
            why = case.poison is not None or case.bad is not None or "checkpoints" in case.options
            assert why or no_jacobian, f"case {seed} ({case.style}, {case.kind}, {case.options}) was refused"
        except BaseException as error:
            what = f"{case.style}, {case.kind}, {case.poison}, {case.bad}, {case.options}"
            raise AssertionError(f"case {seed}: {what}") from error
    assert refused < CASES / PARTS / 2
