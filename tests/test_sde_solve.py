"""Solves of SDEs: orders on known solutions over one path, moments, saved times, ensembles, counts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.brownian import _Interval
from pylocalreg.engines.torch_engine.methods import SDE_METHODS
from pylocalreg.neural_sde import Noise
from tests.conftest import Net, normal

ITO = ("SOSRI", "SOSRI2", "SRIW1", "RKMilCommute", "EM")
STRATONOVICH = ("LambaEulerHeun", "EulerHeun")
METHODS = (*ITO, *STRATONOVICH)
ADAPTIVE = tuple(name for name in METHODS if "error" in SDE_METHODS[name].estimates)
STRONG_ORDER = {"SOSRI": 1.5, "SOSRI2": 1.5, "SRIW1": 1.5, "EM": 0.5}
A, B = 0.5, 0.6

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Known:
    """An SDE with u(1) known from W(1), or from the whole path."""

    drift: Field
    diffusion: Callable[..., torch.Tensor]
    solution: Callable[[torch.Tensor, plr.BrownianPath], torch.Tensor]
    noise: Noise = "diagonal"


def _growth(drift: float) -> Known:
    """Geometric Brownian motion with this drift in Ito's sense."""
    return Known(
        lambda t, u: A * u,
        lambda t, u: B * u,
        lambda u0, path: u0 * torch.exp((drift - B**2 / 2) + B * path(1.0)),
    )


GBM = {"Ito": _growth(A), "Stratonovich": _growth(A + B**2 / 2)}
GBM_SCALAR = {name: Known(k.drift, k.diffusion, k.solution, "scalar") for name, k in GBM.items()}
# du = -(1/100) sin(u) cos(u)^3 dt + (1/10) cos(u)^2 dW: u = arctan(W / 10 + tan(u0))
ARCTAN = Known(
    lambda t, u: -0.01 * u.sin() * u.cos() ** 3,
    lambda t, u: 0.1 * u.cos() ** 2,
    lambda u0, path: torch.arctan(0.1 * path(1.0) + u0.tan()),
)
# du = (b / sqrt(1 + t) - u / (2 (1 + t))) dt + a b / sqrt(1 + t) dW (Kloeden and Platen), a = 0.3, b = 0.5
ADDITIVE = Known(
    lambda t, u: 0.5 / (1 + t).sqrt() - u / (2 * (1 + t)),
    lambda t: 0.3 * 0.5 / (1 + t).sqrt(),
    lambda u0, path: (u0 + 0.5 * (1 + 0.3 * path(1.0))) / math.sqrt(2.0),
    "additive",
)


def interpretation(solver: str) -> str:
    return "Ito" if solver in ITO else "Stratonovich"


def solve(known: Known, u0: torch.Tensor, solver: str, **options: object) -> plr.Solution:
    path = options.pop("path", None)
    node = plr.NeuralSDE(
        known.drift,
        known.diffusion,
        solver=solver,
        noise=known.noise,
        engine="torch",
        **options,  # type: ignore[arg-type]
    )
    return node(u0, noise=path)  # type: ignore[no-any-return]


def strong_errors(known: Known, solver: str, steps: tuple[int, ...]) -> list[float]:
    """Root mean square errors at the end with fixed steps, all over one path."""
    u0 = torch.full((2000, 2), 0.8, dtype=torch.float64)
    path: plr.BrownianPath | None = None
    errors = []
    for n in steps:
        solution = solve(known, u0, solver, dt=1.0 / n, adaptive=False, path=path)
        path = solution.noise
        assert path is not None
        errors.append(float((solution.u - known.solution(u0, path)).square().mean().sqrt()))
    return errors


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("solver", METHODS)
def test_strong_order_of_fixed_steps(solver: str, noise: str) -> None:
    torch.manual_seed(0)
    known = (GBM if noise == "diagonal" else GBM_SCALAR)[interpretation(solver)]
    errors = strong_errors(known, solver, (8, 16, 32, 64))
    order = math.log2(errors[0] / errors[-1]) / 3
    assert order > STRONG_ORDER.get(solver, 1.0) - 0.15
    assert errors[-1] < 0.06


@pytest.mark.parametrize("solver", ITO)
def test_strong_order_on_a_nonlinear_problem(solver: str) -> None:
    torch.manual_seed(1)
    errors = strong_errors(ARCTAN, solver, (4, 8, 16, 32))
    assert math.log2(errors[0] / errors[-1]) / 3 > STRONG_ORDER.get(solver, 1.0) - 0.2


@pytest.mark.parametrize("solver", METHODS)
def test_additive_noise_is_both_ito_and_stratonovich(solver: str) -> None:
    torch.manual_seed(2)
    errors = strong_errors(ADDITIVE, solver, (4, 8, 16, 32))
    order = {"EM": 1.0, "RKMilCommute": 1.0, "EulerHeun": 1.0, "LambaEulerHeun": 1.0}.get(solver, 1.5)
    assert math.log2(errors[0] / errors[-1]) / 3 > order - 0.2


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_steps_follow_the_tolerance_over_one_path(solver: str) -> None:
    torch.manual_seed(3)
    u0 = torch.full((200,), 0.8, dtype=torch.float64)
    known = GBM[interpretation(solver)]
    path: plr.BrownianPath | None = None
    errors, accepted = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        solution = solve(known, u0, solver, abstol=tolerance, reltol=tolerance, path=path)
        path = solution.noise
        assert path is not None
        errors.append(float((solution.u - known.solution(u0, path)).square().mean().sqrt()))
        accepted.append(solution.stats.naccept)
        assert (solution.steps.EEst <= 1).all()
    assert errors[0] > 1.4 * errors[1] > 2 * errors[2]
    assert accepted[0] < accepted[1] < accepted[2]


@pytest.mark.parametrize("solver", METHODS)
def test_weak_moments(solver: str) -> None:
    """Mean and second moment of geometric Brownian motion, within four deviations of the sample's."""
    torch.manual_seed(4)
    n = 20_000
    u0 = torch.ones(n, dtype=torch.float64)
    u = solve(GBM["Ito"], u0, solver, dt=1 / 64, adaptive=False).u
    drift = A if solver in ITO else A + B**2 / 2
    for power in (1, 2):
        right = math.exp(power * drift + power * (power - 1) / 2 * B**2)
        deviation = float((u**power).std()) / math.sqrt(n)
        bias = 0.01 * right  # Euler-Maruyama's, of order dt
        assert abs(float((u**power).mean()) - right) < 4 * deviation + bias


def test_the_same_path_repeats_the_solve() -> None:
    f, g, u0 = Net(3), Net(3, seed=1), normal(5, 3)
    node = plr.NeuralSDE(f, g, engine="torch")
    with torch.no_grad():
        first = node(u0)
        again = node(u0, noise=first.noise)
    torch.testing.assert_close(again.u, first.u, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(again.steps.t, first.steps.t, rtol=1e-10)


def test_generators_seed_the_path() -> None:
    f, g, u0 = Net(3), Net(3, seed=1), normal(5, 3)

    def ends(seed: int) -> list[torch.Tensor]:
        node = plr.NeuralSDE(f, g, engine="torch", generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return [node(u0).u for _ in range(2)]

    one, two = ends(7)
    assert torch.equal(one, ends(7)[0])
    assert torch.equal(two, ends(7)[1])
    assert not torch.equal(one, two)
    assert not torch.equal(one, ends(8)[0])


@pytest.mark.parametrize("solver", METHODS)
def test_saved_times_lie_on_the_line_between_two_steps(solver: str) -> None:
    f, g, u0 = Net(3), Net(3, seed=1), normal(5, 3)
    fixed = {} if solver in ADAPTIVE else {"dt": 0.07}
    times = [0.0, 0.21, 0.5, 1.0]
    node = plr.NeuralSDE(f, g, solver=solver, saveat=times, engine="torch", **fixed)  # type: ignore[arg-type]
    with torch.no_grad():
        solution = node(u0, dense=True)
        assert solution.u.shape == (4, 5, 3)
        torch.testing.assert_close(solution.u[0], u0)
        steps = solution.steps
        for time, u in zip(times[1:], solution.u[1:], strict=True):
            i = int(np.searchsorted(steps.t, time, side="left")) - 1
            start, end = float(steps.t[i]), float(steps.t[i] + steps.dt[i])
            theta = (time - start) / (end - start)
            line = torch.lerp(solution(start), solution(min(end, 1.0)), theta)
            torch.testing.assert_close(u, line, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(u, solution(time), rtol=1e-9, atol=1e-9)


def test_trajectories_are_a_batch_of_independent_paths() -> None:
    torch.manual_seed(5)
    f, g = Net(3), Net(3, seed=1)
    for u0 in (normal(3), normal(5, 3), normal(2, 4, 3)):
        node = plr.NeuralSDE(f, g, trajectories=6, saveat=[0.5, 1.0], engine="torch")
        with torch.no_grad():
            solution = node(u0)
        assert solution.u.shape == (2, 6, *u0.shape)
        assert float(solution.u[1].std(0).min()) > 0
    one = plr.NeuralSDE(lambda t, u: -u, lambda t, u: 0 * u, trajectories=3, engine="torch")
    u = one(normal(5, 3)).u
    torch.testing.assert_close(u[0], u[2])
    torch.testing.assert_close(u[0], normal(5, 3) * math.exp(-1), rtol=2e-2, atol=1e-3)


def test_states_in_parts() -> None:
    class Parts(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, t: torch.Tensor, u: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"x": self.scale * u["v"], "v": -self.scale * u["x"]}

    torch.manual_seed(0)
    u0 = {"x": normal(2, 3), "v": normal(2, 3, seed=1)}
    solution = plr.NeuralSDE(Parts(1.0), Parts(0.1), engine="torch")(u0)
    assert solution.u["x"].shape == (2, 3)


@pytest.mark.parametrize("solver", METHODS)
def test_calls_are_counted_apart(solver: str) -> None:
    f, g, calls = Net(3), Net(3, seed=1), {"f": 0, "g": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    f.register_forward_pre_hook(count("f"))
    g.register_forward_pre_hook(count("g"))
    fixed = {} if solver in ADAPTIVE else {"dt": 0.1}
    with torch.no_grad():
        stats = plr.NeuralSDE(f, g, solver=solver, engine="torch", **fixed)(normal(5, 3)).stats  # type: ignore[arg-type]
    assert (stats.nfe, stats.nfe_diffusion) == (calls["f"], calls["g"])
    tableau = SDE_METHODS[solver].tableau  # type: ignore[attr-defined]
    tried, automatic = stats.naccept + stats.nreject, 2 if solver in ADAPTIVE else 0
    assert stats.nfe == automatic + len(tableau.drift) * tried
    # EM takes its diffusion behind its drift alone: the call that shows what it reaches is one more
    assert stats.nfe_diffusion == automatic + len(tableau.diffusion) * tried + (solver == "EM")


@pytest.mark.parametrize("solver", METHODS)
def test_single_precision(solver: str) -> None:
    f, g, u0 = Net(3).float(), Net(3, seed=1).float(), normal(5, 3, dtype=torch.float32)
    path = plr.BrownianPath(0.0, u0.shape, seed=1)
    solution = plr.NeuralSDE(f, g, solver=solver, dt=1 / 32, adaptive=False, engine="torch")(u0, noise=path)
    assert solution.u.dtype == torch.float32
    exact = plr.BrownianPath(0.0, u0.shape, seed=1, dtype=torch.float64)
    exact._times = path._times
    exact._intervals = [
        _Interval(x.length, x.dW.double(), None if x.mean is None else x.mean.double())
        for x in path._intervals
    ]
    double = plr.NeuralSDE(f.double(), g.double(), solver=solver, dt=1 / 32, adaptive=False, engine="torch")(
        u0.double(), noise=exact
    )
    torch.testing.assert_close(solution.u.double(), double.u, rtol=2e-5, atol=2e-5)


def test_automatic_first_step_is_the_stacks() -> None:
    """initdt.jl with a diffusion: 3 |g| to either side of the slope and of its change, order + 1/2."""
    f, g, u0, tolerance = Net(3), Net(3, seed=1), normal(5, 3), 1e-2
    with torch.no_grad():
        scale = tolerance + u0.abs() * tolerance
        zero = torch.zeros((), dtype=torch.float64)

        def rms(x: torch.Tensor) -> float:
            return float((x / scale).square().mean().sqrt())

        f0, g0 = f(zero, u0), 3 * g(zero, u0)
        d0, d1 = rms(u0), rms(torch.maximum((f0 + g0).abs(), (f0 - g0).abs()))
        dt0 = d0 / d1 / 100
        u1 = u0 + dt0 * f0
        f1, g1 = f(zero + dt0, u1), 3 * g(zero + dt0, u1)
        most = torch.maximum((g0 - g1).abs(), (g0 + g1).abs())
        d2 = rms(torch.maximum((f1 - f0 + most).abs(), (f1 - f0 - most).abs())) / dt0
        dt1 = 10 ** (-(2 + math.log10(max(d1, d2))) / 2.0)
        steps = plr.NeuralSDE(f, g, abstol=tolerance, reltol=tolerance, engine="torch")(u0).steps
    assert steps.dt[0] == pytest.approx(min(100 * dt0, dt1), rel=1e-12)


@pytest.mark.parametrize("solver", ["SOSRI", "SOSRI2", "SRIW1"])
def test_coarse_steps_see_the_integral_of_the_path_that_fine_steps_see(solver: str) -> None:
    """The drift depends on W's integral: order 1.5 over one path needs that dZ belongs to W."""
    torch.manual_seed(6)
    u0 = torch.full((2000, 2), 0.8, dtype=torch.float64)
    coupled = Known(
        lambda t, u: torch.sin(3 * u.flip(-1)), lambda t, u: 0.2 + 0.3 * u.sin(), lambda u0, path: u0
    )
    fine = solve(coupled, u0, "SRIW1", dt=1 / 512, adaptive=False)
    errors = [
        float((solve(coupled, u0, solver, dt=1 / n, adaptive=False, path=fine.noise).u - fine.u).norm())
        for n in (8, 16, 32)
    ]
    assert math.log2(errors[0] / errors[-1]) / 2 > 1.3
