"""Methods and adjoints of both engines against the numbers of the real SciML stack (tests/data)."""

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Gradient, Keep, Trajectory
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.fastpower import fastpower
from tests.golden import Case, distance, estimate_rounding, names, problem, recorded_rounding
from tests.julia import ENGINES

SOLVERS = sorted({name.split("_")[4] for name in names("ode")})
DOUBLE = [name for solver in SOLVERS for name in names("ode", alg=solver, dtype="float64")]
SINGLE = [name for solver in SOLVERS for name in names("ode", alg=solver, dtype="float32")]

# The controller takes EEst to Float32 and a rational logarithm of it (fastpower.py), so a relative change
# of 1e-8 can move the next dt by 1e-7. Where one rounding of a stage changes EEst by so much (the first
# steps' EEst is 1e-5 and below, and at tolerance 1e-9 every estimate has only six digits), the times depend
# on the rounding of the matrix product and the activation, which no two processors share. In float32 that
# change is 3e-4 and more, and dt is drawn from rounding: a step more or fewer may be needed.


def run(case: Case, engine: str) -> tuple[plr.NeuralODE, Trajectory]:
    node = case.node(engine=engine, adjoint="interpolating")
    keep = Keep("all", stages=True)
    return node, node.engine.solve(problem(node), case.state("u0"), [node.tspan[1]], keep)


def roundings(case: Case) -> list[float]:
    """What one rounding of every stage can change in the EEst of each step."""
    node, trajectory = run(case, "torch")
    return [recorded_rounding(node, trajectory, i) for i in range(trajectory.naccept)]


def times_bound(case: Case) -> float:
    """1e-12, or what the times can move by where they are rounded."""
    shares = [r / e for r, e in zip(roundings(case), case["eest"], strict=True)]
    return 1e-12 if max(shares) < 1e-10 else 1e-7 + max(shares)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_counts_and_times_of_most_cases(solver: str, engine: str) -> None:
    """Rounding excuses a few cases only."""
    counted = timed = 0
    cases = [Case.load(name) for name in names("ode", alg=solver)]
    for case in cases:
        _, trajectory = run(case, engine)
        same = trajectory.naccept == int(case["naccept"]) and trajectory.nreject == int(case["nreject"])
        counted += same
        timed += same and np.allclose(trajectory.t, case["t"][:-1], rtol=1e-12, atol=0)
    assert counted >= len(cases) - 2
    assert timed >= sum(case.dtype == torch.float64 for case in cases) / 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DOUBLE + SINGLE)
def test_step_counts(name: str, engine: str) -> None:
    case = Case.load(name)
    with torch.no_grad():
        stats = case.node(engine=engine, adjoint="interpolating")(case.state("u0")).stats
    accepted, rejected = stats.naccept - int(case["naccept"]), stats.nreject - int(case["nreject"])
    assert max(abs(accepted), abs(rejected)) <= (case.dtype == torch.float32)
    if accepted == rejected == 0:
        assert stats.nf == case["nf"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DOUBLE)
def test_double_precision_steps(name: str, engine: str) -> None:
    case = Case.load(name)
    node, trajectory = run(case, engine)
    dt0, _ = node.engine.initial_step(problem(node), node.tspan[0], case.state("u0"))
    assert dt0 == pytest.approx(float(case["dt0"]), rel=1e-12)
    times = np.append(trajectory.t, node.tspan[1])
    np.testing.assert_allclose(times, case["t"], rtol=times_bound(case), atol=0)
    assert distance(trajectory.outputs[0].T, case["u_end"]) < 1e-12

    estimates = zip(trajectory.EEst, case["eest"], roundings(case), strict=True)
    for i, (ours, theirs, rounding) in enumerate(estimates):
        if not np.allclose(times[: i + 2], case["t"][: i + 2], rtol=1e-12, atol=0):
            break  # another step than theirs from here on
        assert abs(ours - theirs) <= 1e-9 * theirs + 4 * rounding


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DOUBLE)
def test_double_precision_saveat(name: str, engine: str) -> None:
    case = Case.load(name)
    node = case.node(engine=engine, adjoint="interpolating", saveat=case["saveat"].tolist())
    with torch.no_grad():
        solution = node(case.state("u0"))
    assert solution.stats.nf == case["nf"]
    assert distance(solution.u.permute(2, 1, 0), case["u_saveat"]) < 1e-12


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SINGLE)
def test_single_precision(name: str, engine: str) -> None:
    case = Case.load(name)
    bound = 2 * case.about["tol"]  # dt is drawn from rounding
    node = case.node(engine=engine, adjoint="interpolating")
    with torch.no_grad():
        solution = node(case.state("u0"), saveat=case["saveat"].tolist())
        end = node(case.state("u0"))
    assert solution.u.dtype == torch.float32
    assert distance(solution.u.permute(2, 1, 0), case["u_saveat"]) < bound
    assert distance(end.u.T, case["u_end"]) < bound
    dt0, _ = node.engine.initial_step(problem(node), node.tspan[0], case.state("u0"))
    assert dt0 == pytest.approx(float(case["dt0"]), rel=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", names("ode", alg="Tsit5", dtype="float64"))
def test_regularizer(name: str, engine: str) -> None:
    """At each tau: dense output, automatic dt, the solve's dt, EEst, and the four gradients of EEst dt."""
    case = Case.load(name)
    node, trajectory = run(case, engine)
    p = node.get_parameter("dynamics.p")
    asked = problem(node)
    end = node.tspan[1]
    dt_bound = times_bound(case)
    for i, tau in enumerate(case["taus"].tolist()):
        u = torch.from_numpy(np.ascontiguousarray(case["reg_u_tau"][:, :, i].T))
        assert distance(node.engine.interpolate(asked, trajectory, tau), u) < 1e-12
        dt_init, _ = node.engine.initial_step(asked, tau, u)
        assert dt_init == pytest.approx(case["reg_dt_init"][i], rel=1e-12)
        dt_solver = min(trajectory.dt[trajectory.step_at(tau)], end - tau)
        assert dt_solver == pytest.approx(case["reg_dt_solver"][i], rel=dt_bound)

        cases: tuple[tuple[str, dict[str, Gradient]], ...] = (
            ("init", {"grad_full_init": "exact", "grad_frozen_init": "frozen"}),
            ("solver", {"grad_full_solver": "exact"}),
        )
        for dt_name, wanted in cases:
            dt = float(case[f"reg_dt_{dt_name}"][i])
            theirs = float(case[f"reg_eest_{dt_name}"][i])
            relative_rounding = estimate_rounding(node, tau, u, dt) / theirs
            for field, gradient in wanted.items():
                state = u.clone().requires_grad_()
                value, _ = node.engine.estimate(asked, "error", tau, state, dt, gradient)
                by_p, by_u = torch.autograd.grad(value, (p, state))
                ours = float(value.detach()) / dt
                assert abs(ours - theirs) <= 1e-8 * theirs + 4 * relative_rounding * theirs
                # a gradient by p is as ill-conditioned as EEst itself, frozen more: its weights do not cancel
                bound = 1e-8 + 100 * relative_rounding
                assert distance(by_p, case["reg_" + field][:, i]) < bound
                if field == "grad_full_solver":
                    assert distance(by_u.T, case["reg_gradu_full_solver"][:, :, i]) < bound


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", names("grad"))
def test_gradients(name: str, adjoint: plr.Adjoint, engine: str) -> None:
    case = Case.load(name)
    node = case.node(engine=engine, abstol=1e-11, reltol=1e-11, adjoint=adjoint)
    u0 = case.state("u0").requires_grad_()
    loss = (case.state("w") * node(u0).u).sum()
    by_p, by_u0 = torch.autograd.grad(loss, (node.get_parameter("dynamics.p"), u0))
    assert float(loss.detach()) == pytest.approx(float(case["loss"]), rel=1e-9)
    assert distance(by_p, case["grad_p"]) < 1e-8
    assert distance(by_u0.T, case["grad_u0"]) < 1e-8


# the tolerance of a solver, and how near its gradients then are
OF_OTHER_SOLVERS = {
    "BS3": (1e-8, 1e-6),
    "DP5": (1e-10, 1e-8),
    "Rodas5": (1e-9, 1e-7),
    "Rodas5P": (1e-9, 1e-7),
    "Rosenbrock23": (1e-5, 1e-3),
    "VCAB3": (1e-8, 1e-6),
    "VCABM3": (1e-8, 1e-6),
    "Vern7": (1e-10, 1e-8),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("solver", sorted(OF_OTHER_SOLVERS))
def test_gradients_of_every_solver(solver: str, adjoint: plr.Adjoint, engine: str) -> None:
    """The golden gradients are the problem's own: any solver with any adjoint comes to them."""
    stiff = solver.startswith("Ro")
    if engine == "julia" and stiff and adjoint == "discrete":
        pytest.skip("the Julia engine refuses it by name")
    tol, bound = OF_OTHER_SOLVERS[solver]
    case = Case.load(min(names("grad"), key=lambda name: Case.load(name).state("u0").numel()))
    node = case.node(engine=engine, abstol=tol, reltol=tol, adjoint=adjoint, solver=solver)
    u0 = case.state("u0").requires_grad_()
    loss = (case.state("w") * node(u0).u).sum()
    by_p, by_u0 = torch.autograd.grad(loss, (node.get_parameter("dynamics.p"), u0))
    assert distance(by_p, case["grad_p"]) < bound
    assert distance(by_u0.T, case["grad_u0"]) < bound


def test_fastpower_is_an_approximate_power() -> None:
    rng = np.random.default_rng(0)
    for x, y in zip(10 ** rng.uniform(-10, 10, 500), rng.uniform(0.01, 1, 500), strict=True):
        assert fastpower(x, y) == pytest.approx(x**y, rel=1e-3)
    assert fastpower(0.0, 0.3) == 0.0
    assert fastpower(1e60, 0.25) == 2.0**32  # beyond Float32
    assert fastpower(0.3, 0.14) != 0.3**0.14  # the approximation itself is what is wanted
