"""The stiff solvers: their numbers, order, stability, reference problems, Jacobians, gradients, regularizers.

The reference is the step as the literature writes it, with W = I / (gamma dt) - J, by plain autograd.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Jacobian, Problem
from pylocalreg.engines.torch_engine.controller import Constants, PIControl
from pylocalreg.engines.torch_engine.linearization import linearize
from pylocalreg.engines.torch_engine.linearizer import Linearizer
from pylocalreg.engines.torch_engine.methods import METHODS
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS
from pylocalreg.errors import JacobianError, NonFiniteError, OptionError
from tests.conftest import Dynamics, Net, assert_close, gradients, mask, normal

F64 = torch.float64
SAVEAT = (0.13, 0.71, 1.4)
SOLVERS = tuple(ROSENBROCK_TABLEAUS)
each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_jacobian = pytest.mark.parametrize("jacobian", ["system", "per_sample"])


def make(solver: str, tol: float, f: Any = None, **options: Any) -> plr.NeuralODE:
    options.setdefault("tspan", (0.0, 1.4))
    return plr.NeuralODE(f or Net(3), solver=solver, abstol=tol, reltol=tol, engine="torch", **options)


def derivatives(f: Dynamics, t: float, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """df/du of the flat state and df/dt, row by row in reverse mode."""
    time = u.new_tensor(t).requires_grad_()
    state = u if u.requires_grad else u.detach().requires_grad_()
    rows, dT = [], []
    for k in f(time, state).reshape(-1):
        row, by_time = torch.autograd.grad(k, (state, time), create_graph=True, allow_unused=True)
        rows.append(torch.zeros(u.numel(), dtype=u.dtype) if row is None else row.reshape(-1))
        dT.append(torch.zeros((), dtype=u.dtype) if by_time is None else by_time)
    return torch.stack(rows), torch.stack(dT).view_as(u)


def stages(
    f: Dynamics, solver: str, t: float, u: torch.Tensor, dt: float, frozen: bool = False
) -> list[torch.Tensor]:
    tableau = ROSENBROCK_TABLEAUS[solver]
    J, dT = derivatives(f, t, u)
    W = torch.eye(u.numel(), dtype=u.dtype) / (tableau.gamma * dt) - J
    z: list[torch.Tensor] = []
    for i in range(len(tableau.c)):
        state, rhs = u, tableau.d[i] * dt * dT
        if i > 0:
            state = u + sum((a * z for a, z in zip(tableau.a[i - 1], z, strict=True)), torch.zeros_like(u))
            rhs = rhs + sum((c / dt * z for c, z in zip(tableau.C[i - 1], z, strict=True)), rhs * 0)
        rhs = rhs + f(u.new_tensor(t + tableau.c[i] * dt), state)
        z_i = torch.linalg.solve(W, rhs.reshape(-1)).view_as(u)
        z.append(z_i.detach() if frozen and i == 0 else z_i)
    return z


def weighted(weights: tuple[float, ...], z: list[torch.Tensor]) -> torch.Tensor:
    return sum((w * x for w, x in zip(weights, z, strict=False)), torch.zeros_like(z[0]))


def step_to(f: Dynamics, solver: str, t: float, u: torch.Tensor, dt: float, time: float) -> torch.Tensor:
    """The state at ``time`` of a step from (t, u), as Hairer and Wanner write the dense output."""
    tableau, z = ROSENBROCK_TABLEAUS[solver], stages(f, solver, t, u, dt)
    u_new, theta = u + weighted(tableau.b, z), (time - t) / dt
    tail = torch.zeros_like(u)
    for row in reversed(tableau.H):
        tail = weighted(row, z) + theta * tail
    return (1 - theta) * u + theta * (u_new + (1 - theta) * tail)


def step_error(
    f: Dynamics, solver: str, t: float, u: torch.Tensor, dt: float, tol: float, frozen: bool = False
) -> torch.Tensor:
    """R of one step."""
    tableau, z = ROSENBROCK_TABLEAUS[solver], stages(f, solver, t, u, dt, frozen)
    u_new = u + weighted(tableau.b, z)
    scaled = weighted(tableau.btilde, z) / (tol + torch.maximum(u.abs(), u_new.abs()) * tol)
    return scaled.square().mean().sqrt() * abs(dt)


def replay(f: Dynamics, solver: str, u: torch.Tensor, solution: plr.Solution) -> list[torch.Tensor]:
    """The states before and after every accepted step."""
    states = [u]
    for t, dt in zip(solution.steps.t.tolist(), solution.steps.dt.tolist(), strict=True):
        states.append(step_to(f, solver, t, states[-1], dt, t + dt))
    return states


def replay_at(f: Dynamics, solver: str, u: torch.Tensor, solution: plr.Solution, time: float) -> torch.Tensor:
    t, dt = solution.steps.t, solution.steps.dt
    i = int(np.searchsorted(t, time)) - 1
    state = replay(f, solver, u, solution)[i]
    return step_to(f, solver, float(t[i]), state, float(dt[i]), time)


# -- the numbers ---------------------------------------------------------------------------------------


@each_solver
def test_numbers_are_consistent(solver: str) -> None:
    """The stages' times and the weights of df/dt follow from the other coefficients."""
    tableau = ROSENBROCK_TABLEAUS[solver]
    s = tableau.stages
    a, C = np.zeros((s, s)), np.zeros((s, s))
    for i in range(1, s):
        a[i, :i], C[i, :i] = tableau.a[i - 1], tableau.C[i - 1]
    gammas = np.linalg.inv(np.eye(s) / tableau.gamma - C)  # z = Gamma k
    np.testing.assert_allclose((a @ gammas).sum(1), tableau.c, atol=2e-12)
    solution = len(tableau.b)  # of df/dt in Rosenbrock23's third stage the stack takes more: see there
    np.testing.assert_allclose(gammas.sum(1)[:solution], tableau.d[:solution], atol=2e-12)
    b = np.pad(np.array(tableau.b), (0, s - len(tableau.b))) @ gammas
    assert b.sum() == pytest.approx(1, abs=1e-12)
    assert np.array(tableau.btilde) @ gammas.sum(1) == pytest.approx(0, abs=1e-12)


def test_rosenbrock23_is_the_stacks() -> None:
    """Its state, error and dense output from k_1, k_2, k_3 as OrdinaryDiffEqRosenbrock writes them."""
    f, t, u, dt = Net(3), 0.2, normal(6).view(2, 3), 0.3
    d, c32 = 1 / (2 + math.sqrt(2)), 6 + math.sqrt(2)
    J, dT = derivatives(f, t, u)
    W = J - torch.eye(6, dtype=F64) / (dt * d)

    def solve(rhs: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = torch.linalg.solve(W, rhs.reshape(-1))
        return -x.view_as(u) / (dt * d)

    f0 = f(u.new_tensor(t), u)
    k1 = solve(f0 + dt * d * dT)
    f1 = f(u.new_tensor(t + dt / 2), u + dt / 2 * k1)
    k2 = solve(f1 - k1) + k1
    u_new = u + dt * k2
    f2 = f(u.new_tensor(t + dt), u_new)
    k3 = solve(f2 - c32 * (k2 - f1) - 2 * (k1 - f0) + dt * dT)
    error = dt / 6 * (k1 - 2 * k2 + k3)

    tableau, z = ROSENBROCK_TABLEAUS["Rosenbrock23"], stages(f, "Rosenbrock23", t, u, dt)
    torch.testing.assert_close(u + weighted(tableau.b, z), u_new, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(weighted(tableau.btilde, z), error, rtol=1e-10, atol=1e-14)
    theta = 0.3
    inside = u + dt * (theta * (1 - theta) * k1 + theta * (theta - 2 * d) * k2) / (1 - 2 * d)
    ours = step_to(f, "Rosenbrock23", t, u, dt, t + theta * dt)
    torch.testing.assert_close(ours, inside, rtol=1e-13, atol=1e-14)


# -- accuracy ------------------------------------------------------------------------------------------


@each_solver
@torch.no_grad()
def test_order_of_convergence(solver: str) -> None:
    """Global error of fixed steps, local error of the dense output, and error against the tolerance."""
    u0 = normal(4, 3)
    exact = make("Vern7", 1e-13, saveat=SAVEAT)(u0)
    wanted = ROSENBROCK_TABLEAUS[solver].order
    ends = []
    for n in (16, 32):
        node = make(solver, 1e-6, adaptive=False, dt=1.4 / n)
        ends.append(float((node(u0).u - exact.u[-1]).norm()))
    assert -0.4 < math.log2(ends[0] / ends[1]) - wanted < 0.9

    inside = []
    for dt in (0.2, 0.1):
        time = 0.4 * dt
        step = make(solver, 1e-6, adaptive=False, dt=dt, tspan=(0.0, dt), saveat=[time])(u0)
        reference = make("Vern7", 1e-13, tspan=(0.0, time))(u0)
        inside.append(float((step.u[0] - reference.u).norm()))
    wanted = 2 if solver == "Rosenbrock23" else 4
    assert -0.5 < math.log2(inside[0] / inside[1]) - (wanted + 1) < 1.0

    for tol in (1e-3, 1e-5) if solver == "Rosenbrock23" else (1e-4, 1e-6, 1e-8):
        solution = make(solver, tol, saveat=SAVEAT)(u0)
        assert float((solution.u - exact.u).abs().max()) < 20 * tol


def robertson(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    a, b, c = u.unbind(-1)
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


# t = 40 and 1e11: Hairer and Wanner II, IV.10, and the IVP test set of Bari (problem rober). t = 4e5 is
# printed to a few digits in CVODE's example (4.938e-3, 1.985e-8, 0.9951): the other digits are scipy's Radau
# at rtol 3e-14, which gives those of 40 and 1e11 again to ten
ROBERTSON = {
    40.0: (0.71582706871940, 9.18553476455e-6, 0.28416374574583),
    4e5: (4.93827452098e-3, 1.984994087956e-8, 0.995061705629),
    1e11: (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
}


@each_solver
@pytest.mark.parametrize("end", ROBERTSON)
@torch.no_grad()
def test_robertson(solver: str, end: float) -> None:
    tol = 1e-5 if solver == "Rosenbrock23" else 1e-8
    u0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    node = plr.NeuralODE(robertson, (0.0, end), solver=solver, abstol=1e-9 * tol, reltol=tol, engine="torch")
    solution = node(u0)
    wanted = torch.tensor(ROBERTSON[end], dtype=F64)
    # errors of the slow decay add up over eleven decades of time
    torch.testing.assert_close(solution.u, wanted, rtol=20 * tol, atol=0)
    assert float(solution.u.sum()) == pytest.approx(1, abs=1e-11)
    assert solution.stats.naccept < 3000
    # two calls for the automatic first step, df/dt and one chunk of columns a step
    calls = solution.stats.naccept + solution.stats.nreject
    own = 1 + 2 * calls if solver == "Rosenbrock23" else 8 * calls
    assert solution.stats.nfe == 2 + own + 2 * solution.stats.naccept
    # the deadband: sizes that would hardly shrink stay
    assert (solution.steps.dt[1:] == solution.steps.dt[:-1]).any()


@each_solver
@torch.no_grad()
def test_stiff_van_der_pol(solver: str) -> None:
    """mu = 1000 over a relaxation oscillation; the value at t = 2000 is the IVP test set's (vdpolm)."""

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        x, v = u.unbind(-1)
        return torch.stack([v, 1e3 * (1 - x * x) * v - x], -1)

    tol = 1e-5 if solver == "Rosenbrock23" else 1e-8
    solution = make(solver, tol, f, tspan=(0.0, 2000.0))(torch.tensor([2.0, 0.0], dtype=F64))
    wanted = torch.tensor([1.706167732170469, -0.8928097010248125e-3], dtype=F64)
    torch.testing.assert_close(solution.u, wanted, rtol=100 * tol, atol=0)
    assert solution.stats.naccept < 3000


@each_solver
@each_jacobian
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@torch.no_grad()
def test_stiff_linear_system_forwards_and_backwards(solver: str, jacobian: Jacobian, dtype: Any) -> None:
    """Rates of 1 to 1e6 towards a target: the solution to tolerance, in a few steps.

    The target moves, but not for Rosenbrock23: the df/dt in its estimate would make the steps tiny.
    """
    move = float(solver != "Rosenbrock23")
    rates = torch.tensor([1.0, 1e3, 1e6], dtype=dtype)
    for direction in (1.0, -1.0):

        def f(t: torch.Tensor, u: torch.Tensor, sign: float = direction) -> torch.Tensor:
            return -sign * rates * (u - torch.sin(move * t)) + move * torch.cos(t)

        tol = 1e-4 if dtype == torch.float32 else 1e-6
        node = make(solver, tol, f, tspan=(0.0, 3.0 * direction), jacobian=jacobian)
        solution = node(torch.tensor([[0.0, 0.5, -0.5], [0.0, 2.0, 1.0]], dtype=dtype))
        assert solution.u.dtype == dtype
        target = torch.full((2, 3), math.sin(move * 3.0 * direction), dtype=dtype)
        torch.testing.assert_close(solution.u, target, rtol=0, atol=20 * tol)
        assert solution.stats.naccept < 600


@each_solver
@torch.no_grad()
def test_l_stability(solver: str) -> None:
    """One step over 1e8 time constants leaves nothing of the start."""
    node = make(solver, 1e-6, lambda t, u: -1e8 * u, adaptive=False, dt=1.0, tspan=(0.0, 1.0))
    assert float(node(torch.ones(2, dtype=F64)).u.abs().max()) < 1e-6


# -- Jacobians -----------------------------------------------------------------------------------------


@each_solver
def test_per_sample_is_the_system_of_independent_samples(solver: str) -> None:
    u0, w = normal(5, 3).requires_grad_(), normal(3, 5, 3, seed=1)
    by_jacobian = []
    for jacobian in ("system", "per_sample"):
        node = make(solver, 1e-5, saveat=SAVEAT, jacobian=jacobian)
        solution = node(u0)
        by_jacobian.append((solution, gradients((w * solution.u).sum(), node, u0)))
    (a, by_a), (b, by_b) = by_jacobian
    np.testing.assert_allclose(a.steps.dt, b.steps.dt, rtol=1e-9)
    torch.testing.assert_close(a.u, b.u, rtol=1e-11, atol=1e-11)
    assert_close(by_a, by_b, rtol=1e-9)
    # the state of 15 elements takes two chunks of columns, a sample one
    assert a.stats.nfe - b.stats.nfe == a.stats.naccept


@torch.no_grad()
def test_states_of_other_shapes() -> None:
    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -(u**3) * t

    exact = 1 / math.sqrt(1 + 1.4**2)
    for shape, jacobian in (((), "system"), ((4,), "per_sample"), ((2, 1, 3), "per_sample"), ((2, 3), None)):
        u = make("Rodas5P", 1e-8, f, jacobian=jacobian)(torch.ones(shape, dtype=F64)).u
        torch.testing.assert_close(u, torch.full(shape, exact, dtype=F64), rtol=1e-7, atol=0)

    def swing(t: torch.Tensor, u: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": u["v"], "v": -u["x"]}

    u0 = {"x": torch.ones(2, dtype=F64), "v": torch.zeros(2, dtype=F64)}
    assert float(make("Rodas5", 1e-8, swing)(u0).u["x"][1]) == pytest.approx(math.cos(1.4), abs=1e-6)
    with pytest.raises(OptionError, match="a dict has no first dimension"):
        make("Rodas5", 1e-8, swing, jacobian="per_sample")(u0)
    with pytest.raises(OptionError, match="no dimension"):
        make("Rodas5", 1e-8, f, jacobian="per_sample")(torch.ones((), dtype=F64))


def test_options_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"Tsit5 takes no Jacobian.*Rodas5"):
        make("Tsit5", 1e-6, jacobian="system")
    with pytest.raises(OptionError, match="'rows' does not exist"):
        make("Rodas5", 1e-6, jacobian="rows")
    with pytest.raises(OptionError, match="Rodas5 has no stiffness estimate"):
        make("Rodas5", 1e-6, regularizer=plr.LocalRegularizer(quantity="stiffness"))
    for regularizer in (plr.TayNODE(), plr.RNODE()):
        name = type(regularizer).__name__
        with pytest.raises(OptionError, match=f"{name} with jacobian='per_sample': .* couples the samples"):
            make("Rodas5", 1e-6, jacobian="per_sample", regularizer=regularizer)(normal(2, 3))


class OnceDifferentiable(torch.autograd.Function):
    """A sine with a first derivative only, as custom kernels often have."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: torch.Tensor) -> tuple[torch.Tensor, int | None]:
        return OnceDifferentiable.apply(x), in_dims[0]  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        by_x: torch.Tensor = cotangent * x.cos()
        return by_x


def with_autograd(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        x = u.detach().requires_grad_()
        return torch.autograd.grad(x.square().sum(), x)[0]


def with_dropout(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.dropout(u)


def with_custom_function(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    k: torch.Tensor = OnceDifferentiable.apply(u)  # type: ignore[no-untyped-call]
    return k


@each_solver
def test_dropout_is_one_draw_and_its_jacobian_that_draws(solver: str) -> None:
    """u' = -m u with m of the mask: the solution of each element is known."""
    torch.manual_seed(3)
    u0 = normal(4, 3)
    node = make(solver, 1e-6, lambda t, u: -with_dropout(t, u))
    torch.manual_seed(3)
    u = node(u0).u
    torch.manual_seed(3)
    rate = torch.nn.functional.dropout(torch.ones_like(u0))
    assert 0 < int((rate > 0).sum()) < rate.numel()
    torch.testing.assert_close(u, u0 * torch.exp(-1.4 * rate), rtol=1e-3, atol=1e-5)


@each_jacobian
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@torch.no_grad()
def test_rows_of_one_call_are_what_forward_mode_gives(jacobian: Jacobian, dtype: torch.dtype) -> None:
    f, u = Net(3).to(dtype), normal(4, 3).to(dtype)
    linearizer, calls = Linearizer(f, jacobian), []
    with f.register_forward_pre_hook(lambda *_: calls.append(1)):
        for t in (0.3, 0.4):
            ours, right = linearizer(t, u), linearize(f, t, u, jacobian)
            tolerance = 100 * torch.finfo(dtype).eps
            torch.testing.assert_close(ours.J, right.J, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(ours.dT, right.dT, rtol=tolerance, atol=tolerance)
    assert linearizer.agrees
    # forward mode's own, those that hold the first place against it, and df/dt of a batch of systems
    assert len(calls) == 2 + 2 + 1 + (2 if jacobian == "per_sample" else 0)


@each_jacobian
def test_the_jacobian_is_the_true_one_where_autograd_does_not_see_the_state(jacobian: Jacobian) -> None:
    """u' = -(1 + u^2) u, the factor without a graph: the Jacobian is not -(1 + u^2)."""

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            factor = 1 + u.square()
        return -factor * u

    u0 = normal(4, 3)
    with torch.no_grad():
        linearizer = Linearizer(f, jacobian)
        J = linearizer(0.0, u0).J
        assert linearizer.agrees is False
        diagonal = J.diagonal(dim1=-2, dim2=-1).reshape(4, 3)
        torch.testing.assert_close(diagonal, -(1 + 3 * u0.square()))
        ours = make("Rodas5P", 1e-8, f, jacobian=jacobian)(u0)
        right = make("Rodas5P", 1e-8, lambda t, u: -(1 + u.square()) * u, jacobian=jacobian)(u0)
    assert ours.stats == right.stats
    torch.testing.assert_close(ours.u, right.u, rtol=1e-10, atol=1e-12)


class Masked(torch.nn.Module):
    """u' = -w m u (1 + t), m the mask it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.3, dtype=F64))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -self.w * mask(u) * u * (1 + t)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve", "gauss"])
@each_jacobian
def test_the_jacobian_of_dynamics_that_draw_is_of_the_mask_that_they_draw(
    jacobian: Jacobian, adjoint: plr.Adjoint
) -> None:
    f, u0 = Masked(), normal(4, 3).requires_grad_()
    node = make("Rodas5", 1e-8, f, jacobian=jacobian, adjoint=adjoint)
    torch.manual_seed(3)
    u = node(u0).u
    torch.manual_seed(3)
    right = u0 * torch.exp(-f.w * (1.4 + 1.4**2 / 2) * mask(u0))
    torch.testing.assert_close(u, right, rtol=1e-9, atol=1e-9)
    ours, exact = (torch.autograd.grad(x.square().sum(), (u0, f.w)) for x in (u, right))
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)


def test_one_step_of_dynamics_that_draw() -> None:
    """Its estimate and gradient are those of dynamics that were given the mask."""
    f, u = Masked(), normal(4, 3).requires_grad_()
    torch.manual_seed(3)
    held = mask(u)
    torch.manual_seed(3)
    ours = plr.local_error(f, u, 0.0, 0.1, solver="Rodas5")
    right = plr.local_error(lambda t, u: -f.w * held * u * (1 + t), u, 0.0, 0.1, solver="Rodas5")
    torch.testing.assert_close(ours, right, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(value, (u, f.w)) for value in (ours, right)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=0)


def test_dynamics_that_draw_and_have_no_jacobian() -> None:
    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return mask(u) * with_custom_function(t, u)

    with pytest.raises(JacobianError, match=r"forward-mode.*t = 0,.*explicit solver"):
        make("Rodas5", 1e-4, f)(normal(2, 3))


@pytest.mark.parametrize("f", [with_autograd, with_custom_function])
@pytest.mark.parametrize("dt", [None, 0.1])
def test_dynamics_without_a_jacobian(f: Dynamics, dt: float | None) -> None:
    with pytest.raises(JacobianError, match=r"torch\.func at t = 0,.*explicit solver"):
        make("Rodas5", 1e-4, f, dt=dt)(normal(2, 3))
    with pytest.raises(JacobianError, match=r"torch\.func"):
        plr.local_error(f, normal(2, 3), 0.0, 0.1, solver="Rodas5")


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@each_solver
def test_a_jacobian_that_is_not_finite(solver: str, dtype: Any) -> None:
    with pytest.raises(NonFiniteError, match="t = 0 after 0 accepted"):
        make(solver, 1e-4, lambda t, u: torch.sqrt(u))(torch.zeros(2, dtype=dtype))


@each_solver
@torch.no_grad()
def test_a_singular_system_rejects_the_step(solver: str) -> None:
    """I - gamma dt J = 0: the stack sets EEst = 2, and the solve goes on with a smaller step."""
    gamma = ROSENBROCK_TABLEAUS[solver].gamma
    dt = next(dt for dt in np.linspace(0.5, 1, 100).tolist() if gamma * dt * (1 / (gamma * dt)) == 1)
    rate = 1 / (gamma * dt)
    f = RightHandSide(lambda t, u: float(rate) * u)
    u0 = torch.ones(1, dtype=F64)
    problem = Problem(f.f, (), (0.0, 1.0), solver, 1e-2, 1e-2, 1000)
    stepper = METHODS[solver].stepper(f, u0, problem)
    _, EEst = stepper.attempt(0.0, u0, dt, None)
    assert EEst == 2
    solution = make(solver, 1e-6, f.f, dt=dt, tspan=(0.0, 1.0))(u0)
    assert solution.stats.nreject > 0
    assert float(solution.u) == pytest.approx(math.exp(rate), rel=1e-3)


def test_controller_deadband() -> None:
    """A size that q would shrink by at most 6/5 is kept; one that grows is not."""
    for error, kept in ((1.0, True), (0.9, True), (0.3, False)):
        controller = PIControl(np.float64, Constants(0.14, 0.08, qsteady_max=6 / 5))
        controller.naccept, controller.old_error = 1, np.float64(1.0)
        dt = controller.propose(np.float64(0.5), np.float64(error), True)
        assert bool(dt == 0.5) is kept


# -- gradients -----------------------------------------------------------------------------------------


@each_solver
@each_jacobian
@pytest.mark.parametrize("checkpoints", [None, 2])
def test_discrete_gradient_is_that_of_the_steps_taken(
    solver: str, jacobian: Jacobian, checkpoints: int | None
) -> None:
    tol = 1e-3 if solver == "Rosenbrock23" else 1e-5
    node = make(solver, tol, saveat=SAVEAT, jacobian=jacobian, checkpoints=checkpoints)
    u0, w = normal(2, 3).requires_grad_(), normal(3, 2, 3, seed=1)
    solution = node(u0)
    u = torch.stack([replay_at(node.dynamics, solver, u0, solution, t) for t in SAVEAT])
    torch.testing.assert_close(solution.u, u, rtol=1e-11, atol=1e-11)
    assert_close(gradients((w * solution.u).sum(), node, u0), gradients((w * u).sum(), node, u0), rtol=1e-10)


@each_solver
def test_discrete_gradient_and_finite_differences(solver: str) -> None:
    """Of fixed steps, so that both differentiate the same map."""
    u0, w = normal(2, 3).requires_grad_(), normal(2, 3, seed=1)
    node = make(solver, 1e-6, adaptive=False, dt=0.1)
    inputs = (u0, *node.parameters())
    directions = [normal(*x.shape, seed=2 + i) for i, x in enumerate(inputs)]
    by_gradient = gradients((w * node(u0).u).sum(), node, u0)
    ours = sum(float((g * d).sum()) for g, d in zip(by_gradient, directions, strict=True))
    values, eps = [], 1e-3
    with torch.no_grad():
        for shift in (-2, -1, 1, 2):
            moved = make(solver, 1e-6, adaptive=False, dt=0.1)
            for p, d in zip(moved.parameters(), directions[1:], strict=True):
                p.add_(d, alpha=shift * eps)
            values.append(float((w * moved(u0 + shift * eps * directions[0]).u).sum()))
    two_below, below, above, two_above = values
    assert ours == pytest.approx((8 * (above - below) - (two_above - two_below)) / (12 * eps), rel=1e-7)


@pytest.mark.parametrize(
    ("solver", "jacobian"),
    [pytest.param("Rodas5", "system", marks=pytest.mark.thorough), ("Rodas5P", "per_sample")],
)
def test_adjoints_agree(solver: str, jacobian: Jacobian) -> None:
    u0, w = normal(2, 3).requires_grad_(), normal(3, 2, 3, seed=1)
    by_adjoint = {}
    for adjoint in ("discrete", "interpolating", "gauss", "quadrature", "backsolve"):
        node = make(solver, 1e-9, saveat=SAVEAT, adjoint=adjoint, jacobian=jacobian)
        by_adjoint[adjoint] = gradients((w * node(u0).u).sum(), node, u0)
    for adjoint in by_adjoint:
        assert_close(by_adjoint[adjoint], by_adjoint["discrete"], rtol=1e-7)


@pytest.mark.parametrize("adjoint", ["interpolating", "gauss", "quadrature", "backsolve"])
def test_adjoints_of_rosenbrock23_agree(adjoint: Any) -> None:
    """Second order: a short span and no df/dt, that a tight tolerance be affordable."""
    net = Net(3)

    class Autonomous(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            k: torch.Tensor = self.net(torch.ones_like(t), u)
            return k

    u0, w = normal(2, 3).requires_grad_(), normal(2, 3, seed=1)
    by_adjoint = []
    for name in ("discrete", adjoint):
        node = make("Rosenbrock23", 1e-9, Autonomous(), tspan=(0.0, 0.05), adjoint=name)
        by_adjoint.append(gradients((w * node(u0).u).sum(), node, u0))
    assert_close(by_adjoint[1], by_adjoint[0], rtol=1e-6)


class Rates(torch.nn.Module):
    """Robertson's reactions with the logarithms of the rates to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = torch.nn.Parameter(torch.tensor([0.04, 3e7, 1e4], dtype=F64).log())

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        k1, k2, k3 = self.logs.exp()
        a, b, c = u.unbind(-1)
        return torch.stack([k3 * b * c - k1 * a, k1 * a - k3 * b * c - k2 * b * b, k2 * b * b], -1)


def test_gradients_of_a_stiff_problem() -> None:
    """d u(4) / d log k of Robertson's problem against differences of tighter solves."""

    def solve(f: Rates, tol: float, adjoint: Any = "discrete") -> torch.Tensor:
        node = plr.NeuralODE(
            f, (0.0, 4.0), solver="Rodas5P", abstol=1e-4 * tol, reltol=tol, adjoint=adjoint, engine="torch"
        )
        u: torch.Tensor = node(torch.tensor([1.0, 0.0, 0.0], dtype=F64)).u
        return u[0]

    wanted, eps = torch.zeros(3, dtype=F64), 1e-3
    with torch.no_grad():
        for i in range(3):
            for sign in (1, -1):
                moved = Rates()
                moved.logs[i] += sign * eps
                wanted[i] += sign * solve(moved, 1e-9) / (2 * eps)
    for adjoint in ("discrete", "interpolating", "gauss", "quadrature"):
        f = Rates()
        (by_logs,) = torch.autograd.grad(solve(f, 1e-7, adjoint), f.logs)
        torch.testing.assert_close(by_logs, wanted, rtol=1e-5, atol=0)


# -- regularizers --------------------------------------------------------------------------------------


@each_solver
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
def test_local_error(solver: str, gradient: Any) -> None:
    f, u = Net(3), normal(2, 3).requires_grad_()
    ours = plr.local_error(f, u, 0.2, -0.3, abstol=1e-4, reltol=1e-4, solver=solver, gradient=gradient)
    theirs = step_error(f, solver, 0.2, u, -0.3, 1e-4, gradient == "frozen")
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    inputs = (u, *f.parameters())
    by_ours = torch.autograd.grad(ours, inputs, create_graph=True)
    by_theirs = torch.autograd.grad(theirs, inputs, create_graph=True)
    assert_close(list(by_ours), list(by_theirs), rtol=1e-8)
    second = [
        torch.autograd.grad(sum((g.square().sum() for g in by), ours * 0), inputs, retain_graph=True)
        for by in (by_ours, by_theirs)
    ]
    assert_close(list(second[0]), list(second[1]), rtol=1e-7)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        ("Rosenbrock23", "discrete"),
        ("Rodas5", "discrete"),
        ("Rodas5P", "discrete"),
        ("Rodas5", "interpolating"),
    ],
)
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
@pytest.mark.parametrize("step", ["solver", "initial"])
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
def test_local_regularizer(solver: str, adjoint: Any, sampling: Any, step: Any, gradient: Any) -> None:
    """Value and gradient of R, through the state too, with interior times in the loss."""
    tol = 1e-6 if adjoint == "interpolating" else 1e-2 if solver == "Rosenbrock23" else 1e-3
    regularizer = plr.LocalRegularizer(
        sampling,
        step,
        gradient,
        through_state=True,
        generator=torch.Generator().manual_seed(3),
        scale="linear",
    )
    node = make(solver, tol, saveat=SAVEAT, adjoint=adjoint, regularizer=regularizer, jacobian="per_sample")
    u0, w = normal(2, 3).requires_grad_(), normal(3, 2, 3, seed=1)
    solution = node(u0)
    value = solution.regularization
    assert value is not None

    f, steps = node.dynamics, solution.steps
    generator = torch.Generator().manual_seed(3)
    if sampling == "biased":
        sample = plr.regularizers.sampling.Reservoirs(1, "none", generator)
        for i in range(len(steps.t)):
            sample.offer(i, 0.0)
        (i,) = sample.weights
        tau, u_tau = float(steps.t[i]), replay(f, solver, u0, solution)[i]
    else:
        tau = 1.4 * float(torch.rand((), generator=generator, dtype=F64))
        i = int(np.searchsorted(steps.t, tau)) - 1
        u_tau = replay_at(f, solver, u0, solution, tau)
    dt = float(steps.dt[i])
    if step == "initial":
        problem = Problem(f, (), (0.0, 1.4), solver, tol, tol, 1000)
        dt, _ = node.engine.initial_step(problem, tau, u_tau.detach())
    dt = min(dt, 1.4 - tau)
    wanted = step_error(f, solver, tau, u_tau, dt, tol, gradient == "frozen")
    # EEst is a rest of large terms: so much of it is rounding
    rounding = 1e-15 / (tol * float(wanted.detach()) / dt)
    torch.testing.assert_close(value, wanted, rtol=1e-8 + 100 * rounding, atol=0)
    u = torch.stack([replay_at(f, solver, u0, solution, t) for t in SAVEAT])
    rtol = (1e-8 if adjoint == "discrete" else 100 * tol) + 1000 * rounding
    assert_close(
        gradients((w * solution.u).sum() + value, node, u0),
        gradients((w * u).sum() + wanted, node, u0),
        rtol=rtol,
    )


@each_solver
def test_global_regularizer(solver: str) -> None:
    tol = 1e-2 if solver == "Rosenbrock23" else 1e-5
    node = make(solver, tol, regularizer=plr.GlobalRegularizer())
    u0, w = normal(2, 3).requires_grad_(), normal(2, 3, seed=1)
    solution = node(u0)
    assert solution.regularization is not None
    states = replay(node.dynamics, solver, u0, solution)
    wanted = torch.stack(
        [
            step_error(node.dynamics, solver, t, u, dt, tol)
            for t, u, dt in zip(
                solution.steps.t.tolist(), states[:-1], solution.steps.dt.tolist(), strict=True
            )
        ]
    ).sum()
    torch.testing.assert_close(solution.regularization, wanted, rtol=1e-8, atol=0)
    assert_close(
        gradients((w * solution.u).sum() + solution.regularization, node, u0),
        gradients((w * states[-1]).sum() + wanted, node, u0),
        rtol=1e-7,
    )


@each_solver
@torch.no_grad()
def test_dense_output(solver: str) -> None:
    """A solution can be called at any time, costs no counted call, and does not follow its parameters."""
    node, u0 = make(solver, 1e-4), normal(4, 3)
    solution, plain = node(u0, dense=True), node(u0)
    saved = node(u0, saveat=SAVEAT)
    assert solution.stats == plain.stats == saved.stats
    for p in node.parameters():
        p.add_(1.0)
    for t, u in zip(SAVEAT, saved.u, strict=True):
        torch.testing.assert_close(solution(t), u, rtol=1e-12, atol=1e-12)
