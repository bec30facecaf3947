"""Global error and stiffness, local stiffness, several samples and their weights, STEER, TayNODE, RNODE."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError, SaveAtError
from pylocalreg.regularizers.base import draw, draw_seed
from pylocalreg.regularizers.sampling import Reservoirs
from pylocalreg.solution import Steps
from tests.conftest import Net, drawn_step, mask, normal, replay, step_error, step_stages

TOLERANCE = 1e-4
SPANS = [(0.0, 1.0), (1.0, -0.5)]
PAIRS = [name for name, tableau in TABLEAUS.items() if tableau.btilde]
STIFF = [name for name, tableau in TABLEAUS.items() if tableau.btilde and tableau.stiffness]

spans = pytest.mark.parametrize("tspan", SPANS)


def make(regularizer: plr.Regularizer, f: torch.nn.Module | None = None, **options: Any) -> plr.NeuralODE:
    own: dict[str, Any] = {"abstol": TOLERANCE, "reltol": TOLERANCE, "engine": "torch"}
    return plr.NeuralODE(Net(3) if f is None else f, regularizer=regularizer, **(own | options))


def step_stiffness(f: torch.nn.Module, t: float, u: torch.Tensor, dt: float, solver: str) -> torch.Tensor:
    """|f(a) - f(b)| / |a - b| of a step's last two stages, by plain autograd."""
    tableau = TABLEAUS[solver]
    ks, _ = step_stages(f, t, u, dt, tableau=tableau)
    last = tableau.stages - 1
    one, other = (
        dt * sum((a * k for a, k in zip(row, ks, strict=False)), torch.zeros_like(u))
        for row in tableau.a[last - 2 : last]
    )
    stiffness: torch.Tensor = (ks[last] - ks[last - 1]).norm() / (other - one).norm()
    return stiffness


def estimates(
    quantity: str, solver: str, f: torch.nn.Module, u0: torch.Tensor, steps: Steps, through: bool
) -> list[torch.Tensor]:
    """The estimate of every accepted step, by plain autograd; ``through`` the states, or not."""
    states = replay(f, u0, steps, TABLEAUS[solver])
    found = []
    for t, dt, u in zip(steps.t, steps.dt, states[:-1], strict=True):
        u = u if through else u.detach()
        if quantity == "stiffness":
            found.append(step_stiffness(f, float(t), u, float(dt), solver))
        else:
            found.append(
                step_error(f, float(t), u, float(dt), TOLERANCE, TOLERANCE, tableau=TABLEAUS[solver])
            )
    return found


def assert_same(ours: torch.Tensor, plain: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=0)
    grads = (torch.autograd.grad(x, inputs, allow_unused=True) for x in (ours, plain))
    for x, a, b in zip(inputs, *grads, strict=True):
        a, b = (torch.zeros_like(x) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7 * float(b.abs().max()) + 1e-14)


@spans
@pytest.mark.parametrize(
    ("quantity", "solver"), [("error", name) for name in PAIRS] + [("stiffness", name) for name in STIFF]
)
def test_global(quantity: Any, solver: str, tspan: tuple[float, float]) -> None:
    u0 = normal(4, 3).requires_grad_()
    node = make(plr.GlobalRegularizer(quantity), tspan=tspan, solver=solver)
    solution = node(u0)
    assert solution.stats.nfe_regularizer == 0
    f = node.dynamics
    plain = torch.stack(estimates(quantity, solver, f, u0, solution.steps, through=True)).sum()
    assert solution.regularization is not None
    assert_same(solution.regularization, plain, [u0, *f.parameters()])


def test_global_beside_a_loss_and_from_checkpoints() -> None:
    u0 = normal(4, 3)

    def gradient(**options: Any) -> list[torch.Tensor]:
        node = make(plr.GlobalRegularizer(), saveat=[0.3, 0.8], **options)
        solution = node(u0)
        assert solution.regularization is not None
        loss = solution.u.square().sum() + 10 * solution.regularization
        return list(torch.autograd.grad(loss, list(node.parameters())))

    for a, b in zip(gradient(), gradient(checkpoints=1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("adjoint", [adjoint for adjoint in ADJOINTS if adjoint != "discrete"])
def test_global_wants_the_discrete_adjoint(adjoint: plr.Adjoint) -> None:
    with pytest.raises(OptionError, match="discrete"):
        make(plr.GlobalRegularizer(), adjoint=adjoint)


@pytest.mark.parametrize("through_state", [False, True])
@pytest.mark.parametrize("solver", STIFF)
@spans
def test_local_stiffness(tspan: tuple[float, float], solver: str, through_state: bool) -> None:
    u0 = normal(4, 3).requires_grad_()
    regularizer = plr.LocalRegularizer("biased", through_state=through_state, quantity="stiffness")
    node = make(regularizer, tspan=tspan, solver=solver)
    torch.manual_seed(4)
    solution = node(u0)
    torch.manual_seed(4)
    i = drawn_step(solution.steps)
    f = node.dynamics
    plain = estimates("stiffness", solver, f, u0, solution.steps, through_state)[i]
    assert solution.regularization is not None
    assert_same(solution.regularization, plain, [u0, *f.parameters()])


def test_stiffness_of_a_linear_system_is_its_rate() -> None:
    linear = plr.NeuralODE(
        lambda t, u: -7.0 * u, regularizer=plr.LocalRegularizer(quantity="stiffness"), engine="torch"
    )
    value = linear(normal(2, 3)).regularization
    assert float(value) == pytest.approx(7.0, rel=1e-6)


def test_stiffness_needs_two_stages_at_the_end() -> None:
    for regularizer in (plr.GlobalRegularizer("stiffness"), plr.LocalRegularizer(quantity="stiffness")):
        with pytest.raises(OptionError, match="stiffness"):
            make(regularizer, solver="BS3")
    with pytest.raises(OptionError, match="error"):
        make(plr.LocalRegularizer(), solver="RK4", dt=0.1)


# -- several samples and their weights ------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("through_state", [False, True])
def test_many_biased_samples(through_state: bool, adjoint: plr.Adjoint) -> None:
    """The mean of the drawn steps' estimates, a step drawn twice counted twice."""
    u0, samples = normal(4, 3).requires_grad_(), 5
    regularizer = plr.LocalRegularizer("biased", through_state=through_state, samples=samples, scale="linear")
    node = make(regularizer, adjoint=adjoint)
    torch.manual_seed(2)
    solution = node(u0)
    torch.manual_seed(2)
    draws = Reservoirs(samples, "none", None)
    for i in range(len(solution.steps.t)):
        draws.offer(i, 0.0)
    assert len(draws.weights) > 1
    f = node.dynamics
    every = estimates("error", "Tsit5", f, u0, solution.steps, through_state)
    plain = torch.stack([weight * every[i] for i, weight in draws.weights.items()]).sum()
    assert sum(draws.weights.values()) == pytest.approx(1)
    assert solution.regularization is not None
    if through_state and adjoint != "discrete":  # right to about the tolerance
        torch.testing.assert_close(solution.regularization, plain, rtol=1e-8, atol=0)
    else:
        assert_same(solution.regularization, plain, [u0, *f.parameters()])


def test_many_unbiased_samples() -> None:
    f, u0 = Net(3), normal(4, 3)

    def values(samples: int, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        node = make(plr.LocalRegularizer(samples=samples, generator=generator), f, saveat=[0.4])
        with torch.no_grad():
            solution = node(u0)
        assert solution.stats.nfe_regularizer == 7 * samples
        assert solution.u.shape == (1, 4, 3)
        return float(solution.regularization)

    generator = torch.Generator().manual_seed(1)
    node = make(plr.LocalRegularizer(generator=generator), f)
    with torch.no_grad():
        single = [float(node(u0).regularization) for _ in range(3)]
    assert values(3, seed=1) == pytest.approx(np.mean(single), rel=1e-9)


@pytest.mark.parametrize("importance", ["uniform", "estimate"])
def test_importance_is_unbiased_for_the_global_sum(importance: Any) -> None:
    f, u0 = Net(3), normal(4, 3)
    node = make(plr.GlobalRegularizer(), f)
    exact = node(u0).regularization
    assert exact is not None
    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(exact, list(f.parameters()))])
    regularizer = plr.LocalRegularizer(
        "biased",
        through_state=True,
        samples=4,
        importance=importance,
        generator=torch.Generator().manual_seed(0),
    )
    node = make(regularizer, f)
    values, gradients = [], []
    for _ in range(150):
        value = node(u0).regularization
        assert value is not None
        grads = torch.autograd.grad(value, list(f.parameters()))
        values.append(float(value.detach()))
        gradients.append(torch.cat([g.reshape(-1) for g in grads]))
    if importance == "estimate":
        assert values == pytest.approx([float(exact.detach())] * 150, rel=1e-9)
    else:
        error = np.std(values) / math.sqrt(150)
        assert abs(np.mean(values) - float(exact.detach())) < 4 * error
    every = torch.stack(gradients)
    assert every.std(0).max() > 0
    z = (every.mean(0) - wanted) / (every.std(0) / math.sqrt(150) + 1e-12 * wanted.abs().max())
    assert float(z.abs().max()) < 5


def test_importance_needs_the_record() -> None:
    for options in ({"sampling": "unbiased"}, {"sampling": "biased", "step": "initial"}):
        with pytest.raises(OptionError, match="importance"):
            plr.LocalRegularizer(importance="uniform", **options)  # type: ignore[arg-type]


def test_samples_keep_only_their_states() -> None:
    draws = Reservoirs(3, "estimate", torch.Generator().manual_seed(0))
    chosen = [draws.offer(i, 1.0) for i in range(200)]
    assert chosen[0]
    assert 3 <= sum(chosen) < 60


# -- STEER, TayNODE and RNODE ---------------------------------------------------------------------------


@spans
def test_steer(tspan: tuple[float, float]) -> None:
    f, u0 = Net(3), normal(4, 3)
    node = make(plr.STEER(0.3, torch.Generator().manual_seed(1)), f, tspan=tspan)
    same, ends = torch.Generator().manual_seed(1), []
    for _ in range(5):
        solution = node(u0)
        ends.append(float(solution.t[-1]))
        assert ends[-1] == tspan[1] + 0.3 * (2 * draw(same) - 1)
        plain = make(plr.STEER(0.3), f, tspan=(tspan[0], ends[-1])).eval()(u0)
        torch.testing.assert_close(solution.u, plain.u, rtol=0, atol=0)
        assert float(solution.regularization) == 0.0
        grads = (torch.autograd.grad(s.u.square().sum(), list(f.parameters())) for s in (solution, plain))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert len(set(ends)) == 5
    node.eval()
    assert float(node(u0).t[-1]) == tspan[1]


def test_steer_that_can_not_be() -> None:
    for spread in (0.0, -1.0, float("inf")):
        with pytest.raises(OptionError, match="spread"):
            plr.STEER(spread)
    with pytest.raises(OptionError, match="tspan"):
        make(plr.STEER(1.0))
    with pytest.raises(SaveAtError, match="STEER"):
        make(plr.STEER(0.3), saveat=[0.8, 1.0])(normal(2, 3))
    assert make(plr.STEER(0.3), saveat=[0.6, 1.0])(normal(2, 3)).u.shape == (2, 2, 3)


@pytest.mark.parametrize("order", [1, 2, 3])
@spans
def test_taynode_of_a_known_solution(tspan: tuple[float, float], order: int) -> None:
    """u' = a u: the K-th derivative is a^K u, so the integral of its square is known."""
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    node = plr.NeuralODE(
        lambda t, u: a * u,
        tspan,
        abstol=1e-10,
        reltol=1e-10,
        regularizer=plr.TayNODE(order),
        params=[a],
        engine="torch",
    )
    u0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solution = node(u0)
    length = tspan[1] - tspan[0]
    exact = a ** (2 * order) * 2.5 * (torch.exp(2 * a * length) - 1) / (2 * a) * math.copysign(1, length)
    torch.testing.assert_close(solution.regularization, exact, rtol=1e-8, atol=0)
    ours, wanted = (torch.autograd.grad(x, a)[0] for x in (solution.regularization, exact))
    torch.testing.assert_close(ours, wanted, rtol=1e-7, atol=0)
    torch.testing.assert_close(solution.u, u0 * torch.exp(a * length))


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [
        pytest.param(
            ("TayNODE", "RNODE")[i % 2],
            adjoint,
            marks=pytest.mark.thorough if adjoint == "quadrature" else (),
        )
        for i, adjoint in enumerate(ADJOINTS)
    ],
)
def test_integrals_against_finite_differences(name: str, adjoint: plr.Adjoint) -> None:
    """With a time-dependent network, a loss beside it, and saved times that leave out the end."""
    u0, generator = normal(2, 3), torch.Generator()
    regularizer = plr.TayNODE(2) if name == "TayNODE" else plr.RNODE(0.7, 1.3, generator)
    node = make(regularizer, adjoint=adjoint, saveat=[0.5], abstol=1e-10, reltol=1e-10)

    def loss() -> torch.Tensor:
        generator.manual_seed(3)
        solution = node(u0)
        assert solution.u.shape == (1, 2, 3)
        assert solution.regularization is not None
        total: torch.Tensor = solution.u.sum() + solution.regularization
        return total

    directions = [normal(*p.shape, seed=i) for i, p in enumerate(node.parameters())]
    grads = torch.autograd.grad(loss(), list(node.parameters()))
    ours = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    values = []
    with torch.no_grad():
        for by in (1e-4, -2e-4):
            for p, d in zip(node.parameters(), directions, strict=True):
                p.add_(d, alpha=by)
            values.append(float(loss()))
    assert ours == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-6)


def test_taynode_counts_its_calls() -> None:
    f = Net(3)
    calls: list[int] = []
    f.register_forward_pre_hook(lambda *_: calls.append(1))
    stats = make(plr.TayNODE(3), f)(normal(2, 3)).stats
    assert stats.nfe == len(calls)
    assert stats.nfe_regularizer == 2 * (stats.nfe - stats.nfe_regularizer)


def test_taynode_of_float32_dynamics_of_time_alone() -> None:
    """torch gives such a time's tangent as float64."""
    node = plr.NeuralODE(lambda t, u: torch.exp(-0.1 * t), regularizer=plr.TayNODE(2), engine="torch")
    solution = node(torch.ones(()))
    assert solution.regularization is not None
    assert solution.u.dtype == solution.regularization.dtype == torch.float32
    # the second derivative of the solution is -0.1 exp(-0.1 t)
    start, end = node.tspan
    wanted = 0.01 * (math.exp(-0.2 * start) - math.exp(-0.2 * end)) / 0.2
    assert float(solution.regularization) == pytest.approx(wanted, rel=1e-4)


def eps_of(seed: int, *shape: int) -> torch.Tensor:
    """What RNODE draws from a generator of this seed."""
    drawn = draw_seed(torch.Generator().manual_seed(seed))
    return torch.randn(shape, generator=torch.Generator().manual_seed(drawn), dtype=torch.float64)


@spans
def test_rnode_of_a_known_solution(tspan: tuple[float, float]) -> None:
    """u' = A u with A diagonal: every element's velocity and its derivative along eps are known."""
    a = torch.tensor([0.8, -0.5], dtype=torch.float64, requires_grad=True)
    regularizer = plr.RNODE(2.0, 3.0, torch.Generator().manual_seed(4))
    node = plr.NeuralODE(
        lambda t, u: a * u,
        tspan,
        abstol=1e-10,
        reltol=1e-10,
        regularizer=regularizer,
        params=[a],
        engine="torch",
    )
    u0, eps = normal(3, 2), eps_of(4, 3, 2)
    solution = node(u0)
    length = tspan[1] - tspan[0]
    kinetic = (u0.square() * a * torch.expm1(2 * a * length) / 2).mean()
    jacobian = (a * eps).square().mean() * length
    exact = (2 * kinetic + 3 * jacobian) * math.copysign(1, length)
    torch.testing.assert_close(solution.regularization, exact, rtol=1e-8, atol=0)
    ours, wanted = (torch.autograd.grad(x, a)[0] for x in (solution.regularization, exact))
    torch.testing.assert_close(ours, wanted, rtol=1e-7, atol=0)
    torch.testing.assert_close(solution.u, u0 * torch.exp(a * length))


def test_rnode_by_quadrature() -> None:
    """Of a network, along the solution: Gauss-Legendre, and the Jacobian by backward-mode differentiation."""
    f, u0, eps = Net(3), normal(4, 3), eps_of(5, 4, 3)
    own: dict[str, Any] = {"abstol": 1e-10, "reltol": 1e-10}
    nodes, weights = np.polynomial.legendre.leggauss(12)
    times = [float(x) for x in (nodes + 1) / 2]
    states = plr.NeuralODE(f, saveat=times, engine="torch", **own)(u0).u
    kinetic = jacobian = 0.0
    for t, weight, u in zip(times, weights / 2, states, strict=True):
        time = torch.tensor(t, dtype=torch.float64)
        along = torch.einsum("abcd,cd->ab", torch.func.jacrev(f, argnums=1)(time, u.detach()), eps)
        kinetic += weight * float(f(time, u).square().mean().detach())
        jacobian += weight * float(along.square().mean().detach())

    def value(kinetic: float, jacobian: float) -> float:
        regularizer = plr.RNODE(kinetic, jacobian, torch.Generator().manual_seed(5))
        return float(make(regularizer, f, **own)(u0).regularization.detach())

    assert value(1.0, 0.0) == pytest.approx(kinetic, rel=1e-8)
    assert value(0.0, 1.0) == pytest.approx(jacobian, rel=1e-8)
    assert value(0.5, 2.0) == pytest.approx(0.5 * kinetic + 2 * jacobian, rel=1e-8)


def test_rnode_is_an_unbiased_estimate_of_the_jacobian_s_size() -> None:
    matrix = normal(3, 3, seed=1)
    generator = torch.Generator().manual_seed(0)
    node = make(plr.RNODE(0.0, 1.0, generator), plr.NeuralODE(lambda t, u: u @ matrix).dynamics)
    with torch.no_grad():
        values = [float(node(normal(50, 3)).regularization) for _ in range(40)]
    exact = float(matrix.square().sum()) / 3
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / math.sqrt(40)
    assert np.std(values) < 0.3 * exact


def test_rnode_of_the_first_features_alone() -> None:
    """A log density behind a flow's state moves neither term; the state is solved as before."""

    class Flow(Net):
        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            velocity = super().forward(t, u[..., :3])
            return torch.cat([velocity, 5 * velocity.sum(-1, keepdim=True)], dim=-1)

    own: dict[str, Any] = {"abstol": 1e-9, "reltol": 1e-9}

    def value(f: torch.nn.Module, u0: torch.Tensor, features: int | None) -> float:
        regularizer = plr.RNODE(1.0, 1.0, torch.Generator().manual_seed(2), features)
        return float(make(regularizer, f, **own)(u0).regularization.detach())

    u0 = normal(4, 4)
    assert value(Flow(3), u0, 3) == pytest.approx(value(Net(3), u0[:, :3], None), rel=1e-7)
    assert value(Flow(3), u0, None) > 2 * value(Flow(3), u0, 3)
    with pytest.raises(OptionError, match=r"features = 5: a state of shape \(4, 4\) has fewer"):
        value(Flow(3), u0, 5)


def test_rnode_draws_from_its_generator_in_training_alone() -> None:
    f, u0 = Net(3), normal(4, 3)
    one, same = (make(plr.RNODE(generator=torch.Generator().manual_seed(7)), f) for _ in range(2))
    state = torch.get_rng_state()
    values = [float(one(u0).regularization.detach()) for _ in range(3)]
    assert values == [float(same(u0).regularization.detach()) for _ in range(3)]
    assert len(set(values)) == 3
    assert torch.equal(torch.get_rng_state(), state)
    before = one.regularizer.generator.get_state()  # type: ignore[union-attr]
    solution = one.eval()(u0)
    assert solution.regularization is None
    assert solution.stats.nfe_regularizer == 0
    assert torch.equal(one.regularizer.generator.get_state(), before)  # type: ignore[union-attr]


@pytest.mark.parametrize(("jacobian", "extra"), [(0.0, 0), (1.0, 1)])
def test_rnode_counts_its_calls(jacobian: float, extra: int) -> None:
    f = Net(3)
    calls: list[int] = []
    f.register_forward_pre_hook(lambda *_: calls.append(1))
    stats = make(plr.RNODE(1.0, jacobian), f)(normal(2, 3)).stats
    assert stats.nfe == len(calls)
    assert stats.nfe_regularizer == extra * (stats.nfe - stats.nfe_regularizer)


@pytest.mark.parametrize("coefficients", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 0.0), (0.0, 0.0)])
def test_rnode_that_can_not_be(coefficients: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match=r"kinetic = |jacobian = "):
        plr.RNODE(*coefficients)


@pytest.mark.parametrize("name", ["RNODE", "TayNODE"])
def test_derivatives_of_dynamics_that_draw_are_of_the_mask_that_they_draw(name: str) -> None:
    """Value and gradient are those of dynamics that were given the mask."""
    u0, a = normal(4, 3), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    held = mask(u0)

    def run(f: Any) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        regularizer = plr.TayNODE(3) if name == "TayNODE" else plr.RNODE(0.7, 1.3, generator)
        torch.manual_seed(3)
        solution = plr.NeuralODE(f, regularizer=regularizer, params=[a], engine="torch")(u0)
        value = solution.regularization
        return solution.u, value, *torch.autograd.grad(value, a)

    drawing = run(lambda t, u: torch.sin(t + a * mask(u) * u))
    torch.testing.assert_close(drawing, run(lambda t, u: torch.sin(t + a * held * u)), rtol=1e-9, atol=0)
