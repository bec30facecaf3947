"""Bounds, stops and controller constants: dtmin, dtmax, tstops, gamma, qmin, qmax, beta1, beta2, qsteady_*.

What the stack does with the same options is in test_steps_parity.py.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.fastpower import fastpower
from pylocalreg.errors import OptionError, StepUnderflowError, TimeSpanError
from tests.conftest import Dynamics, Net, assert_close, inside, normal, step_stages
from tests.julia import ENGINES

F64 = torch.float64
JUMP = 0.3337
ONE_STEP = ("BS3", "DP5", "Tsit5", "Vern7", "Rodas5", "Rodas5P", "Rosenbrock23")
CONVENTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "before": lambda t: t < JUMP,
    "up to": lambda t: t <= JUMP,
}


def before(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u * torch.cos(3 * t) + 1


def after(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u * torch.cos(3 * t) - 1


def jumping(convention: str) -> Dynamics:
    is_before = CONVENTIONS[convention]
    return lambda t, u: torch.where(is_before(t), before(t, u), after(t, u))


def node(f: Dynamics, tspan: tuple[float, float] = (0.0, 1.0), **options: Any) -> plr.NeuralODE:
    tol = options.pop("tol", 1e-6)
    options.setdefault("engine", "torch")
    if options.get("solver", "Tsit5").startswith("Ro") and options["engine"] == "julia":
        options.setdefault("adjoint", "interpolating")
    return plr.NeuralODE(f, tspan, **({"abstol": tol, "reltol": tol} | options))


def by_pieces(u0: torch.Tensor, tspan: tuple[float, float]) -> torch.Tensor:
    """The end of the jumping problem, each side solved alone."""
    start, end = tspan
    pieces = (before, after) if start < end else (after, before)
    for f, piece in zip(pieces, ((start, JUMP), (JUMP, end)), strict=True):
        u0 = node(f, piece, solver="Vern7", tol=1e-12)(u0).u
    return u0


# -- tstops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("solver", ONE_STEP)
@torch.no_grad()
def test_a_jump_at_a_tstop_costs_no_rejection(
    solver: str, convention: str, tspan: tuple[float, float], engine: str
) -> None:
    tol = 1e-4 if solver == "Rosenbrock23" else 1e-6
    f, u0 = jumping(convention), torch.full((2,), 2.0, dtype=F64)
    options: dict[str, Any] = {"solver": solver, "tol": tol, "engine": engine}
    without = node(f, tspan, **options)(u0)
    smooth = node(before, tspan, **options)(u0)
    stopped = node(f, tspan, tstops=[JUMP], **options)(u0)
    assert JUMP in stopped.steps.t
    assert stopped.stats.nreject <= smooth.stats.nreject
    if solver in ("BS3", "DP5", "Tsit5", "Vern7"):
        assert without.stats.nreject > 10
        assert stopped.stats.nreject == 0
    wanted = by_pieces(u0, tspan)
    assert float((stopped.u - wanted).abs().max()) < 20 * tol
    # one slope more than the stack counts: that on the far side of the jump, where a method keeps one
    keeps_one = solver in ("BS3", "DP5", "Tsit5", "Rosenbrock23")
    assert stopped.stats.nfe - stopped.stats.nf == keeps_one


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_a_jump_in_single_precision(engine: str) -> None:
    u0 = torch.full((3,), 2.0)
    solution = node(jumping("before"), tstops=[JUMP], tol=1e-5, engine=engine)(u0)
    assert solution.stats.nreject == 0
    assert float((solution.u.double() - by_pieces(u0.double(), (0.0, 1.0))).abs().max()) < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", ["Tsit5", "VCAB3", "VCABM3", "Vern7", "Rodas5P", "RK4"])
@pytest.mark.parametrize(
    "given",
    [
        [0.7, 0.1, 0.40000001, 0.4, 0.1],
        (0.1, 0.4, 0.40000001, 0.7, 0.0, 1.0),
        np.array([0.1, 0.7, 0.40000001, 0.4]),
        torch.tensor([0.1, 0.7, 0.40000001, 0.4], dtype=F64),
    ],
    ids=["list", "tuple", "array", "tensor"],
)
@torch.no_grad()
def test_steps_end_at_every_tstop(given: Any, solver: str, engine: str) -> None:
    dt = 0.03 if solver == "RK4" else None
    ode = node(before, tstops=given, solver=solver, dt=dt, tol=1e-4, engine=engine)
    u0 = normal(3)
    double, single = ode(u0).steps, ode(u0.float()).steps
    assert {0.1, 0.4, 0.40000001, 0.7} <= set(double.t)
    # float32 does not tell 0.4 from 0.40000001
    assert {float(np.float32(t)) for t in (0.1, 0.4, 0.7)} <= set(single.t)
    for steps in (double, single):
        assert np.all(np.diff(steps.t) > 0)
        assert steps.t[-1] + steps.dt[-1] == pytest.approx(1, abs=1e-6)
    if dt is not None:  # fixed steps begin anew at a stop
        at = list(double.t).index(0.1)
        np.testing.assert_allclose(double.dt[at : at + 9], 0.03)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_tstops_change_only_where_steps_end(engine: str) -> None:
    """saveat and dense output read between the stops as without them."""
    times = [0.05, JUMP, 0.34, 0.9]
    u0 = normal(3)
    f = jumping("before")
    solution = node(f, tstops=[JUMP], saveat=times, engine=engine)(u0, dense=True)
    for t, u in zip(times, solution.u, strict=True):
        torch.testing.assert_close(solution(t), u, rtol=1e-12, atol=1e-12)
        end = node(f, (0.0, t), tstops=[JUMP] if t >= JUMP else [], tol=1e-11, engine=engine)(u0)
        torch.testing.assert_close(u, end.u, rtol=1e-5, atol=1e-5)


class Jumping(torch.nn.Module):
    """Two vector fields with parameters, one after the other."""

    def __init__(self, convention: str) -> None:
        super().__init__()
        self.first, self.second = Net(3, seed=1), Net(3, seed=2)
        self.is_before = CONVENTIONS[convention]

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.where(self.is_before(t), self.first(t, u), self.second(t, u))


def loss_of(solution: plr.Solution) -> torch.Tensor:
    weights = normal(*solution.u.shape, seed=5)
    loss: torch.Tensor = (weights * solution.u).sum()
    return loss


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_adjoints_across_a_jump(
    adjoint: plr.Adjoint, convention: str, tspan: tuple[float, float], engine: str
) -> None:
    """Against each side solved alone."""
    f, u0 = Jumping(convention), normal(2, 3).requires_grad_()
    wanted_by = (u0, *f.parameters())
    options: dict[str, Any] = {"tol": 1e-10, "adjoint": adjoint, "engine": engine}
    saveat = [0.2, JUMP, 0.6, 0.9]
    if tspan[0] > tspan[1]:
        saveat.reverse()
    ode = node(f, tspan, tstops=[JUMP], saveat=saveat, **options)
    ours = torch.autograd.grad(loss_of(ode(u0)), wanted_by)

    sides = (f.first, f.second) if tspan[0] < tspan[1] else (f.second, f.first)
    one = node(sides[0], (tspan[0], JUMP), saveat=saveat[: saveat.index(JUMP) + 1], tol=1e-11)(u0).u
    other = node(sides[1], (JUMP, tspan[1]), saveat=saveat[saveat.index(JUMP) + 1 :], tol=1e-11)(one[-1]).u
    weights = normal(len(saveat), *u0.shape, seed=5)
    theirs = torch.autograd.grad((weights * torch.cat([one, other])).sum(), wanted_by)
    assert_close(list(ours), list(theirs), rtol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_discrete_gradient_is_that_of_the_steps_taken(convention: str, engine: str) -> None:
    f, u0 = Jumping(convention), normal(2, 3).requires_grad_()
    saveat = [0.2, 0.5, 1.0]
    ode = node(f, tstops=[JUMP, 0.1], saveat=saveat, tol=1e-4, engine=engine)
    solution = ode(u0)
    ours = torch.autograd.grad(loss_of(solution), (u0, *f.parameters()))

    states, state = [], u0
    for t, dt in zip(solution.steps.t, solution.steps.dt, strict=True):
        side = f.first if t + dt / 2 < JUMP else f.second
        for time in saveat:
            if t < time <= t + dt - 1e-12:
                states.append(inside(side, t, state, dt, time))
        state = step_stages(side, t, state, dt)[1]
    theirs = torch.autograd.grad(
        (normal(3, 2, 3, seed=5) * torch.stack([*states, state])).sum(), (u0, *f.parameters())
    )
    assert_close(list(ours), list(theirs), rtol=1e-10)


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating", "gauss", "quadrature"])
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "Rodas5P"])
def test_steps_taken_again_from_a_checkpoint(solver: str, adjoint: plr.Adjoint) -> None:
    f, u0 = Jumping("before"), normal(2, 3).requires_grad_()
    by_checkpoints = [
        torch.autograd.grad(
            loss_of(node(f, tstops=[JUMP], solver=solver, adjoint=adjoint, checkpoints=c, tol=1e-7)(u0)),
            (u0, *f.parameters()),
        )
        for c in (None, 2)
    ]
    assert_close(list(by_checkpoints[0]), list(by_checkpoints[1]), rtol=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", ["VCAB3", "VCABM3"])
def test_multistep_gradients_across_a_jump(solver: str, engine: str) -> None:
    """By differences of the states, the steps' sizes held."""
    f, u0 = Jumping("before"), normal(3)
    direction = normal(3, seed=9)
    options: dict[str, Any] = {"solver": solver, "tstops": [JUMP], "adaptive": False, "dt": 0.01}
    ode = node(f, engine=engine, **options)
    start = u0.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(ode(start)), start)
    with torch.no_grad():
        up, down = (float(loss_of(ode(u0 + h * direction))) for h in (1e-5, -1e-5))
    assert float((grad * direction).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"step": "initial"}, {"sampling": "biased"}], ids=str)
def test_regularizers_do_not_step_over_a_tstop(options: dict[str, Any], engine: str) -> None:
    """A step over the jump would have an estimate thousands of times as large."""
    values = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        regularizer = plr.LocalRegularizer(**options, generator=generator, scale="linear")
        ode = node(jumping("before"), tstops=[JUMP], regularizer=regularizer, engine=engine)
        values.append(float(ode(torch.full((2,), 2.0, dtype=F64)).regularization))
    assert max(values) < 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", ["SOSRI2", "SRIW1", "RKMilCommute", "LambaEulerHeun", "EM"])
def test_sdes_stop_too(solver: str, engine: str) -> None:
    """Over one path, with fixed steps; each side solved alone takes the same ones."""
    f, g = Jumping("before"), Net(3, seed=3)
    path = plr.BrownianPath(0.0, (2, 3), seed=4, dtype=F64)
    fixed: dict[str, Any] = {"solver": solver, "dt": 0.03, "adaptive": False, "engine": engine}
    u0 = normal(2, 3).requires_grad_()
    whole = plr.NeuralSDE(f, g, (0.0, 1.0), tstops=[JUMP], **fixed)(u0, noise=path)
    half = plr.NeuralSDE(f.first, g, (0.0, JUMP), **fixed)(u0, noise=path)
    other = plr.NeuralSDE(f.second, g, (JUMP, 1.0), **fixed)(half.u, noise=path)
    np.testing.assert_array_equal(whole.steps.t, [*half.steps.t, *other.steps.t])
    torch.testing.assert_close(whole.u, other.u, rtol=1e-12, atol=1e-12)
    wanted_by = (u0, *f.parameters(), *g.parameters())
    ours, theirs = (torch.autograd.grad(loss_of(solution), wanted_by) for solution in (whole, other))
    assert_close(list(ours), list(theirs), rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_adaptive_sdes_stop_too(engine: str) -> None:
    drift, g = jumping("before"), Net(2, seed=3)
    path = plr.BrownianPath(0.0, (2,), seed=4, dtype=F64)
    sde = plr.NeuralSDE(drift, g, tstops=[0.2, JUMP], dtmax=0.05, engine=engine)
    solution = sde(torch.full((2,), 2.0, dtype=F64), noise=path)
    assert {0.2, JUMP} <= set(solution.steps.t)
    assert solution.steps.dt.max() <= 0.05


# -- bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("solver", ["Tsit5", "VCABM3", "Vern7", "Rosenbrock23"])
@torch.no_grad()
def test_dtmax_bounds_every_step(solver: str, tspan: tuple[float, float], engine: str) -> None:
    u0 = normal(3)
    free = node(before, tspan, solver=solver, tol=1e-3, engine=engine)(u0)
    assert np.abs(free.steps.dt).max() > 0.05
    for f in (before, lambda t, u: torch.zeros_like(u)):  # of which the second has no natural step
        bound = node(f, tspan, solver=solver, tol=1e-3, dtmax=0.05, engine=engine)(u0)
        assert np.abs(bound.steps.dt).max() <= 0.05
        assert bound.stats.naccept >= 20


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_a_pulse_that_only_dtmax_sees(engine: str) -> None:
    """Between two stages of a long step there can be anything."""

    def pulse(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return 100 * torch.exp(-(((t - 5.3) / 0.02) ** 2)) + 0 * u

    area = 100 * 0.02 * math.sqrt(math.pi)
    ends = [
        float(node(pulse, (0.0, 10.0), dtmax=dtmax, engine=engine)(torch.zeros(1, dtype=F64)).u)
        for dtmax in (None, 0.05)
    ]
    assert ends[0] < 0.1 * area
    assert ends[1] == pytest.approx(area, rel=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
@torch.no_grad()
def test_dtmin(tspan: tuple[float, float], engine: str) -> None:
    u0 = torch.full((2,), 2.0, dtype=F64)
    with pytest.raises(StepUnderflowError, match=r"dt = .* is not above dtmin = 0\.001 at t = 0\.3"):
        node(jumping("before"), tspan, dtmin=1e-3, engine=engine)(u0)
    # a stop may cut a step shorter
    stops = [JUMP, JUMP + 1e-4, JUMP - 1e-4]
    solution = node(jumping("before"), tspan, dtmin=1e-3, tstops=stops, engine=engine)(u0)
    assert set(stops) <= set(solution.steps.t)
    loose = node(before, tspan, dtmin=1e-3, engine=engine)(u0)
    assert np.abs(loose.steps.dt[:-1]).min() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_dtmin_lifts_the_automatic_first_step(engine: str) -> None:
    u0 = torch.full((2,), 1e-8, dtype=F64)
    first = node(before, engine=engine)(u0).steps.dt[0]
    lifted = node(before, dtmin=10 * first, engine=engine)(u0).steps.dt[0]
    assert lifted == pytest.approx(10 * first, rel=1e-12)


# -- the controller -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "given",
    [
        {"gamma": 0.6},
        {"qmin": 0.7},
        {"qmax": 1.3},
        {"beta1": 0.3},
        {"beta2": 0.0},
        {"qsteady_min": 0.5, "qsteady_max": 1.5},
        {"gamma": 0.8, "qmin": 0.3, "qmax": 3.0, "beta1": 0.12, "beta2": 0.05, "qsteady_max": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("solver", ["Tsit5", "DP5"])
@torch.no_grad()
def test_the_proposals_are_the_formula_s(solver: str, given: dict[str, float], engine: str) -> None:
    ode = node(Net(3), (0.0, 20.0), solver=solver, tol=1e-7, engine=engine, **given)
    solution = ode(normal(3))
    steps = solution.steps
    beta2 = given.get("beta2", 0.04 if solver == "DP5" else 0.08)
    constants = {
        "gamma": 0.9,
        "qmin": 0.2,
        "qmax": 10.0,
        "qsteady_min": 1.0,
        "qsteady_max": 1.0,
        "beta1": 0.2 - 0.75 * beta2 if solver == "DP5" else 0.14,
    } | given
    shrunk, old = 0, 1e-4
    for i, EEst in enumerate(steps.EEst[:-2]):
        q = fastpower(EEst, constants["beta1"]) / fastpower(old, beta2) / constants["gamma"]
        q = min(max(q, 1 / (constants["qmax"] if i else 10_000)), 1 / constants["qmin"])
        if constants["qsteady_min"] <= q <= constants["qsteady_max"]:
            q = 1.0
        proposal, old = steps.dt[i] / q, max(EEst, 1e-4)
        shrunk += steps.dt[i + 1] < proposal * (1 - 1e-6)  # by a rejection
        assert steps.dt[i + 1] <= proposal * (1 + 1e-6)
    assert shrunk <= solution.stats.nreject < 10
    assert len(steps.dt) > 50


@pytest.mark.parametrize("engine", ENGINES)
def test_what_follows_a_step_that_a_stop_cut_short(engine: str) -> None:
    """As in the stack the first step goes on from the size it would have had, later ones from the cut one."""
    held: dict[str, Any] = {"qsteady_min": 1e-9, "qsteady_max": 10.0, "tol": 1e-3, "dt": 0.1}
    ode = node(before, tstops=[0.001, 0.351], saveat=[0.0007, 1.0], engine=engine, **held)
    u0 = normal(3).requires_grad_()
    solution = ode(u0)
    torch.testing.assert_close(solution.u[0], node(before, (0.0, 0.0007), tol=1e-10)(u0).u, rtol=1e-9, atol=0)
    (ours,) = torch.autograd.grad(solution.u.sum(), u0)
    (theirs,) = torch.autograd.grad(node(before, saveat=[0.0007, 1.0], tol=1e-10)(u0).u.sum(), u0)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
    sizes = solution.steps.dt
    np.testing.assert_allclose(sizes[:5], [0.001, 0.1, 0.1, 0.1, 0.05])
    np.testing.assert_allclose(sizes[5:-1], 0.05)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_a_rejected_step_shrinks_by_the_formula(engine: str) -> None:
    """qmin bounds it: the jump is reached by more rejections the less each one shrinks."""
    u0 = torch.full((2,), 2.0, dtype=F64)
    rejections = [
        node(jumping("before"), qmin=qmin, engine=engine)(u0).stats.nreject for qmin in (0.1, 0.5, 0.9)
    ]
    assert rejections[0] < rejections[1] < rejections[2]


# -- refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": 0.0}, OptionError, "gamma = 0: .*0 < gamma <= 1"),
        ({"gamma": 1.5}, OptionError, r"gamma = 1\.5"),
        ({"qmin": 1.0}, OptionError, "qmin = 1: "),
        ({"qmax": 0.9}, OptionError, r"qmax = 0\.9"),
        ({"beta1": -0.1}, OptionError, r"beta1 = -0\.1"),
        ({"beta2": -0.1}, OptionError, r"beta2 = -0\.1"),
        ({"qsteady_min": 1.2, "qsteady_max": 1.1}, OptionError, r"qsteady_min = 1\.2 is above"),
        ({"qsteady_max": 0.0}, OptionError, "qsteady_max = 0"),
        ({"gamma": "much"}, OptionError, "gamma = 'much' is not a number"),
        ({"qmax": math.inf}, OptionError, "qmax = inf is not finite"),
        ({"qmax": 10**400}, OptionError, r"qmax = 10+\.\.\. is not a number"),
        ({"dtmin": 0.0}, TimeSpanError, "dtmin = 0 must"),
        ({"dtmin": 1.0}, TimeSpanError, "dtmin = 1 must"),
        ({"dtmax": -1.0}, TimeSpanError, "dtmax = -1 must be above 0"),
        ({"dtmax": 0.1, "dtmin": 0.1}, TimeSpanError, r"dtmax = 0\.1 must be above dtmin = 0\.1"),
        ({"dt": 0.5, "dtmax": 0.1}, TimeSpanError, r"dt = 0\.5 .*dtmax = 0\.1"),
        ({"dt": 0.1, "dtmin": 0.1}, TimeSpanError, r"dt = 0\.1 .*dtmin = 0\.1"),
        ({"tstops": [0.5, 1.5, -1.0]}, TimeSpanError, r"2 times outside .*-1\.0"),
        ({"tstops": [math.nan]}, TimeSpanError, "nan"),
        ({"tstops": 0.5}, TimeSpanError, r"tstops = 0\.5 is not a sequence"),
        ({"tstops": "0.5"}, TimeSpanError, "tstops = '0.5'"),
        ({"tstops": [[0.5]]}, TimeSpanError, "is not a sequence of times"),
        ({"tstops": [10**400]}, TimeSpanError, "is not a sequence of times"),
        ({"gamma": 0.8, "qmin": 0.1, "adaptive": False, "dt": 0.1}, OptionError, "gamma, qmin: fixed steps"),
        ({"dtmax": 0.5, "solver": "RK4", "dt": 0.1}, OptionError, "dtmax: fixed steps"),
    ],
)
def test_refused_by_name(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plr.NeuralODE(before, engine="torch", **options)
    sde = {name: value for name, value in options.items() if name != "solver"}
    if "solver" not in options:
        with pytest.raises(error, match=message):
            plr.NeuralSDE(before, before, engine="torch", **sde)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_steer_ends_before_a_tstop(engine: str) -> None:
    """Stops behind the end that was drawn are none of that solve's."""
    ode = node(before, tstops=[0.4, 0.9], regularizer=plr.STEER(0.4), engine=engine)
    for _ in range(8):
        solution = ode(normal(3))
        end = float(solution.t[0])
        assert [t in solution.steps.t for t in (0.4, 0.9)] == [end > 0.4, end > 0.9]
