"""The problem sets torchdiffeq and diffrax test themselves with, solved to their bounds by every method.

What they ask of options that are not here is left out: an empty time span (refused), gradients with respect
to times, jump times, complex states.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import linregress

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.methods import ODE_METHODS
from tests import detest
from tests.conftest import Dynamics, normal

F32, F64 = torch.float32, torch.float64
FIXED = [name for name, method in ODE_METHODS.items() if "error" not in method.estimates]
ADAPTIVE = [name for name in ODE_METHODS if name not in FIXED]
HIGH_ORDER = [name for name in ADAPTIVE if ODE_METHODS[name].order >= 4]
EXPLICIT = [name for name in HIGH_ORDER if not ODE_METHODS[name].takes_jacobian]
WITH_ADJOINTS = [
    # the adjoint equations cost the stiff solvers seconds each; test_rosenbrock.py has them
    (solver, adjoint)
    for solver in ADAPTIVE
    for adjoint in ADJOINTS
    if adjoint == "discrete" or not ODE_METHODS[solver].takes_jacobian
]

each_solver = pytest.mark.parametrize("solver", ODE_METHODS)
each_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS)
each_dtype = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
each_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def make(f: Any, tspan: tuple[float, float], solver: str, rtol: float, atol: float, **options: Any) -> Any:
    return plr.NeuralODE(f, tspan, solver=solver, abstol=atol, reltol=rtol, engine="torch", **options)


# ---------------------------------------------------------------- torchdiffeq


class Constant(torch.nn.Module):
    """The solution is a straight line, whatever the power."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.2, dtype=F64))
        self.b = torch.nn.Parameter(torch.tensor(3.0, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.a + (u - self.exact(t)) ** 5

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        return self.a * t + self.b


class Sine(torch.nn.Module):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 2 * u / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        oscillating = (t**2 / 4 - t**4 / 2) * torch.cos(2 * t) + t**3 / 2 * torch.sin(2 * t)
        return oscillating - t**3 + 2 * t**4 + (math.pi - 0.25) * t**2


class Linear(torch.nn.Module):
    """Ten dimensions that rotate."""

    def __init__(self) -> None:
        super().__init__()
        U = 0.1 * normal(10, 10)
        self.A = torch.nn.Parameter(U - U.T)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.A @ u

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        u: torch.Tensor = torch.linalg.matrix_exp(self.A * t[..., None, None]).sum(-1)
        return u


class Exp(torch.nn.Module):
    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -0.1 * self.exact(t)

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.1 * t)


TORCHDIFFEQ: dict[str, tuple[Callable[[], Any], float, float]] = {
    # name: (dynamics, bound of the relative error, bound between the gradients of two adjoints)
    "constant": (Constant, 3e-4, 1e-12),
    "linear": (Linear, 2e-3, 1e-5),
    "sine": (Sine, 3e-4, 5e-3),
    "exp": (Exp, 5e-2, 1e-2),
}
TIMES = torch.linspace(1, 8, 10, dtype=F64)


def torchdiffeq_problem(name: str, reverse: bool = False) -> tuple[Any, list[float], torch.Tensor]:
    """The dynamics, the times and the states at them."""
    f, times = TORCHDIFFEQ[name][0](), TIMES.flip(0) if reverse else TIMES
    with torch.no_grad():
        return f, times.tolist(), f.exact(times)


@each_direction
@each_dtype
@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (solver, name)
        for solver in ODE_METHODS
        for name in TORCHDIFFEQ
        if (solver not in FIXED or name == "constant")
        and (solver != "Rosenbrock23" or name in ("constant", "linear"))
    ],
)
def test_torchdiffeq_problems(solver: str, name: str, dtype: torch.dtype, reverse: bool) -> None:
    """At torchdiffeq's own tolerances; fixed steps, from one time to the next, on the straight line alone.

    Rosenbrock23, of order 2, would take thousands of steps of sine and exp: they have a test of their own.
    """
    f, times, exact = torchdiffeq_problem(name, reverse)
    f, exact = f.to(dtype), exact.to(dtype)
    rtol = max(1e-7, torch.finfo(dtype).eps)
    dt = times[1] - times[0] if solver in FIXED else None
    with torch.no_grad():
        u = make(f, (times[0], times[-1]), solver, rtol, 1e-9, saveat=times, dt=dt)(exact[0]).u
    assert u.dtype == dtype
    assert torch.equal(u[0], exact[0])
    assert float(((u - exact) / exact).abs().max()) < TORCHDIFFEQ[name][1]


@pytest.mark.parametrize(
    ("dtype", "reverse", "tolerance"), [(F32, False, 1e-5), (F64, False, 1e-5), (F64, True, 3e-6)]
)
@pytest.mark.parametrize("name", ["sine", "exp"])
@torch.no_grad()
def test_torchdiffeq_by_Rosenbrock23(name: str, dtype: torch.dtype, reverse: bool, tolerance: float) -> None:
    """To the bound at a tolerance that fits its order.

    Not backwards in float32, where sine reaches 4e-4 at best: it falls by four digits, which thousands of
    steps' rounding does not.
    """
    f, times, exact = torchdiffeq_problem(name, reverse)
    exact = exact.to(dtype)
    node = make(f, (times[0], times[-1]), "Rosenbrock23", tolerance, 0.01 * tolerance, saveat=times)
    assert float(((node(exact[0]).u - exact) / exact).abs().max()) < TORCHDIFFEQ[name][1]


@pytest.mark.parametrize(("solver", "adjoint"), WITH_ADJOINTS)
def test_torchdiffeq_gradcheck(solver: str, adjoint: str) -> None:
    """Of the straight line by its start, at gradcheck's own bounds."""
    f, times, exact = torchdiffeq_problem("constant")
    node = make(f, (times[0], times[-1]), solver, 1e-7, 1e-9, saveat=times, adjoint=adjoint)
    assert torch.autograd.gradcheck(lambda u0: node(u0).u, exact[0].requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("solver", FIXED)
def test_torchdiffeq_gradcheck_of_fixed_steps(solver: str) -> None:
    f, times, exact = torchdiffeq_problem("constant")
    dt = times[1] - times[0]
    node = make(f, (times[0], times[-1]), solver, 1e-7, 1e-9, saveat=times, dt=dt)
    assert torch.autograd.gradcheck(lambda u0: node(u0).u, exact[0].requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", TORCHDIFFEQ)
@pytest.mark.parametrize("solver", EXPLICIT)
def test_torchdiffeq_adjoints_agree(solver: str, name: str) -> None:
    """With a random cotangent at every time; by the start and by every parameter."""
    f, times, exact = torchdiffeq_problem(name)
    u0, by_adjoint = exact[0].requires_grad_(), []
    cotangent = torch.rand(exact.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    for adjoint in ADJOINTS:
        node = make(f, (times[0], times[-1]), solver, 1e-9, 1e-12, saveat=times, adjoint=adjoint)
        by_adjoint.append(torch.autograd.grad(node(u0).u, (u0, *f.parameters()), cotangent))
    for other in by_adjoint[1:]:
        for ours, theirs in zip(by_adjoint[0], other, strict=True):
            assert float((ours - theirs).abs().max()) < TORCHDIFFEQ[name][2]


WITH_SPIRAL = ("DP5", "Tsit5", "Rodas5P")


class Spiral(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=F64))
        self.unused = torch.nn.Linear(2, 5)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return u**3 @ self.A


@functools.cache
def spiral_gradients(solver: str, adjoint: str) -> tuple[torch.Tensor, torch.Tensor]:
    """By the start and by A, with a random cotangent of at most 0.1 at ten times."""
    f, times = Spiral(), torch.linspace(0, 25, 10).tolist()
    u0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=True)
    u = make(f, (0.0, 25.0), solver, 1e-7, 1e-9, saveat=times, adjoint=adjoint)(u0).u
    u.backward(0.1 * torch.rand(u.shape, generator=torch.Generator().manual_seed(0), dtype=F64))
    assert all(p.grad is None or not p.grad.any() for p in f.unused.parameters())
    assert u0.grad is not None
    assert f.A.grad is not None
    return u0.grad, f.A.grad


@pytest.mark.parametrize(("solver", "adjoint"), [pair for pair in WITH_ADJOINTS if pair[0] in WITH_SPIRAL])
def test_torchdiffeq_spiral(solver: str, adjoint: str) -> None:
    """Against DP5 through the steps themselves."""
    (by_u0, by_A), (right_u0, right_A) = (
        spiral_gradients(solver, adjoint),
        spiral_gradients("DP5", "discrete"),
    )
    assert float((by_u0 - right_u0).abs().max()) < 3e-4
    assert float((by_A - right_A).abs().max()) < 2e-3


@each_adjoint
def test_torchdiffeq_euler(adjoint: str) -> None:
    """Ten steps of u' = u multiply by 1.1^10, and so they do the gradient."""
    u0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    u = make(lambda t, u: u, (0.0, 1.0), "Euler", 1e-7, 1e-9, dt=0.1, adjoint=adjoint)(u0).u
    (gradient,) = torch.autograd.grad(u, u0)
    assert float(u.detach()) == pytest.approx(1.1**10, abs=1e-6)
    assert float(gradient) == pytest.approx(1.1**10, abs=1e-6)


# ---------------------------------------------------------------- diffrax


def detest_cases() -> list[tuple[str, str]]:
    """As diffrax has them: class A alone below order 4, and of it A1 and A2 for Euler.

    Rodas5, for the time it takes, leaves all but class A to Rodas5P.
    """
    return [
        (solver, name)
        for solver, method in ODE_METHODS.items()
        for name in detest.PROBLEMS
        if name in ("A1", "A2")
        or (name[0] == "A" and solver != "Euler")
        or (method.order >= 4 and solver != "Rodas5")
    ]


@functools.cache
def detest_reference(name: str) -> torch.Tensor:
    """The state at the end by scipy's DOP853."""
    f, u0 = detest.PROBLEMS[name]

    def flat(t: float, u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        k = f(torch.tensor(t, dtype=F64), torch.from_numpy(u).view_as(u0))
        return np.asarray(k.reshape(-1))

    solved = solve_ivp(flat, detest.TSPAN, u0.reshape(-1).numpy(), method="DOP853", rtol=1e-8, atol=1e-8)
    return torch.from_numpy(solved.y[:, -1].copy()).view_as(u0)


@pytest.mark.parametrize(("solver", "name"), detest_cases())
@torch.no_grad()
def test_detest(solver: str, name: str) -> None:
    """Fixed steps are of 0.01; of 0.001 for RK4 around the sharp turn of the orbit D5."""
    f, u0 = detest.PROBLEMS[name]
    tolerance, bound = (1e-8, 4e-5) if ODE_METHODS[solver].order >= 4 else (1e-6, 1e-3)
    dt = None if solver not in FIXED else 0.001 if name == "D5" else 0.01
    u = make(f, detest.TSPAN, solver, tolerance, tolerance, dt=dt)(u0).u
    torch.testing.assert_close(u, detest_reference(name), rtol=bound, atol=bound)


LINEAR_ORDER = {"Rodas5P": 6}
"""Where it is higher than the order: the stability function agrees with exp to one power more."""


@each_solver
@torch.no_grad()
def test_diffrax_order(solver: str) -> None:
    """The slope of log error over log step for a linear system over [0, 4], down to errors of 2^-28."""
    A, u0 = 0.5 * normal(10, 10, seed=5678), normal(10, seed=5679)
    exact = torch.linalg.matrix_exp(4 * A) @ u0
    exponents, errors = [], []
    for exponent in (0, -1, -2, -3, -4, -6, -8):
        node = make(lambda t, u: A @ u, (0.0, 4.0), solver, 1e-6, 1e-6, dt=2.0**exponent, adaptive=False)
        error = float((node(u0).u - exact).abs().sum())
        if error < 2**-28:
            break
        exponents.append(exponent)
        errors.append(math.log2(error))
    order = LINEAR_ORDER.get(solver, ODE_METHODS[solver].order)
    assert abs(linregress(exponents, errors).slope - order) < 0.9


@each_dtype
@each_solver
@pytest.mark.parametrize("state", ["tensor", "tuple", "dict"])
@torch.no_grad()
def test_diffrax_decay(solver: str, dtype: torch.dtype, state: str) -> None:
    u0, dt = normal(2, 3, dtype=dtype), 0.01 if solver in FIXED else None
    packed: Any = {"tensor": u0, "tuple": (u0, u0[0]), "dict": {"u": u0, "v": u0[0]}}[state]

    def f(t: torch.Tensor, u: Any) -> Any:
        if isinstance(u, tuple):
            return tuple(-part for part in u)
        return {key: -part for key, part in u.items()} if isinstance(u, dict) else -u

    u = make(f, (0.0, 1.0), solver, 1e-5, 1e-8, dt=dt)(packed).u
    first = u if state == "tensor" else u[0] if state == "tuple" else u["u"]
    torch.testing.assert_close(first, u0 * math.exp(-1), rtol=1e-2, atol=1e-2)


@each_solver
@pytest.mark.parametrize("dt", [0.3, None])
@torch.no_grad()
def test_diffrax_reverse_time(solver: str, dt: float | None) -> None:
    """From 4 to 0.3, and the mirror image: the same states at the same steps, saved times and any time."""
    if dt is None and solver in FIXED:
        dt = 0.1
    u0, adaptive = normal(2, 2), dt is None
    options: dict[str, Any] = {"adaptive": adaptive, "dt": dt}

    def solve(f: Dynamics, tspan: tuple[float, float], times: list[float]) -> plr.Solution:
        solution: plr.Solution = make(f, tspan, solver, 1e-3, 1e-6, saveat=times, **options)(u0, dense=True)
        return solution

    if dt is not None:
        options["dt"] = -dt
    back = solve(lambda t, u: -u, (4.0, 0.3), [3.5, 0.7])
    options["dt"] = dt
    forth = solve(lambda t, u: u, (-4.0, -0.3), [-3.5, -0.7])
    np.testing.assert_allclose(back.steps.t, -forth.steps.t, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(back.u, forth.u, rtol=1e-5, atol=1e-8)
    for t in np.linspace(0.3, 4, 20).tolist():
        torch.testing.assert_close(back(t), forth(-t), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("solver", HIGH_ORDER)
@torch.no_grad()
def test_diffrax_saveat(solver: str) -> None:
    """u' = -u / 2 over [0.1, 1.1]: at the end, at saved times, at the steps and at any time."""
    u0 = torch.tensor([2.1], dtype=F64)
    node = make(lambda t, u: -0.5 * u, (0.1, 1.1), solver, 1e-8, 1e-8)
    solution = node(u0, dense=True)
    for u, t in (
        (solution.u, 1.1),
        *zip(node(u0, saveat=[0.5, 0.8]).u, (0.5, 0.8), strict=True),
        *((solution(t), t) for t in (0.2, 0.8, *solution.steps.t.tolist())),
    ):
        torch.testing.assert_close(u, u0 * math.exp(-0.5 * (t - 0.1)), rtol=1e-5, atol=1e-8)
    for outside in (0.0, 3.0):
        with pytest.raises(plr.errors.SaveAtError):
            node(u0, saveat=[outside])


class Rotation(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([0.1, -0.1], dtype=F64))

    @property
    def matrix(self) -> torch.Tensor:
        return torch.diag(self.a) + torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.matrix @ u


@pytest.mark.parametrize("times", [[0.3], [2.0], [9.5], [1.0, 7.0], [0.3, 7.0, 9.5]], ids=str)
@each_adjoint
def test_diffrax_gradients(adjoint: str, times: list[float]) -> None:
    """Of the sum of the states at some times, by the start and the rates, against the matrix exponential."""
    f, u0 = Rotation(), torch.tensor([0.9, 5.4], dtype=F64, requires_grad=True)
    u = make(f, (0.3, 9.5), "Tsit5", 1e-8, 1e-8, saveat=times, adjoint=adjoint)(u0).u
    exact = torch.stack([torch.linalg.matrix_exp((t - 0.3) * f.matrix) @ u0 for t in times])
    ours = torch.autograd.grad(u.sum(), (u0, f.a), materialize_grads=True)
    theirs = torch.autograd.grad(exact.sum(), (u0, f.a), materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
