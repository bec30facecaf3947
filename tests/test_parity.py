"""Every Runge-Kutta method and both adjoints against the numbers of the real SciML stack (tests/data)."""

import numpy as np
import pytest
import torch

from pylocalreg.engines.base import Gradient, Keep
from pylocalreg.engines.torch_engine.fastpower import fastpower
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from tests.golden import Case, distance, estimate_rounding, names, problem

DOUBLE = [name for solver in TABLEAUS for name in names("ode", alg=solver, dtype="float64")]
SINGLE = [name for solver in TABLEAUS for name in names("ode", alg=solver, dtype="float32")]

# The controller takes EEst to Float32 and a rational logarithm of it (fastpower.py), so a relative change
# of 1e-8 can move the next dt by 1e-7. Where one rounding of a stage changes EEst by more than that (the
# first steps' EEst is 1e-5 and below, and at tolerance 1e-9 every estimate has only six digits), the times
# depend on the rounding of the matrix product and the activation, which no two BLAS share.
TIMES_ARE_ROUNDED = {name for name in DOUBLE if name.endswith("_1e-09")} | {
    "ode_sig3_s1_float64_Tsit5_1e-06",
    "ode_sig3_s1_float64_DP5_1e-06",
    "ode_auto6_s1_float64_Vern7_1e-06",
    "ode_td16_s1_float64_Vern7_1e-06",
    "ode_sig3_s1_float64_Vern7_1e-06",
    "ode_sig3_s3_float64_Vern7_1e-06",
}

# In float32 one rounding of a stage changes EEst by 3e-4 to 1e-3 here, and EEst itself is below 6e-3: dt is
# drawn from rounding, and the last accepted step of seven ends at 0.987 with us, at 1 with the stack. DP5's
# first estimate is smaller than its rounding: we need one step less.
MORE_STEPS = {"ode_td16_s1_float32_Tsit5_1e-05": 1, "ode_auto6_s1_float32_DP5_1e-03": -1}
SINGLE_MOVED = {
    "ode_auto6_s3_float32_Tsit5_1e-03": "dt differ by 2e-4 from rounding, the error of a step is 1e-3",
    "ode_td4_s1_float32_Tsit5_1e-03": "dt differ by 4e-2 from rounding, the error of a step is 1e-3",
}


@pytest.mark.parametrize("name", DOUBLE + SINGLE)
def test_step_counts(name: str) -> None:
    case = Case.load(name)
    with torch.no_grad():
        stats = case.node()(case.state("u0")).stats
    more = MORE_STEPS.get(name, 0)
    assert (stats.naccept, stats.nreject) == (case["naccept"] + more, case["nreject"])
    tableau = TABLEAUS[case.about["alg"]]
    assert stats.nfe == case["nf"] + more * (tableau.stages - tableau.fsal)


@pytest.mark.parametrize("name", DOUBLE)
def test_double_precision_steps(name: str) -> None:
    case = Case.load(name)
    node = case.node()
    end = node.tspan[1]
    trajectory = node.engine.solve(problem(node), case.state("u0"), [end], Keep())
    dt0, _ = node.engine.initial_step(problem(node), node.tspan[0], case.state("u0"))
    assert dt0 == pytest.approx(float(case["dt0"]), rel=1e-12)
    times = np.append(trajectory.t, end)
    bound = 1e-4 if name in TIMES_ARE_ROUNDED else 1e-12
    np.testing.assert_allclose(times, case["t"], rtol=bound, atol=0)
    assert distance(trajectory.outputs[0].T, case["u_end"]) < 1e-12

    for i, (ours, theirs) in enumerate(zip(trajectory.EEst, case["eest"], strict=True)):
        if not np.allclose(times[: i + 2], case["t"][: i + 2], rtol=1e-12, atol=0):
            assert name in TIMES_ARE_ROUNDED  # another step than theirs from here on
            break
        rounding = estimate_rounding(node, trajectory.t[i], trajectory.u[i], trajectory.dt[i])
        assert abs(ours - theirs) <= 1e-9 * theirs + 4 * rounding


@pytest.mark.parametrize("name", DOUBLE)
def test_double_precision_saveat(name: str) -> None:
    case = Case.load(name)
    with torch.no_grad():
        solution = case.node(saveat=case["saveat"].tolist())(case.state("u0"))
    assert solution.stats.nfe == case["nf"]
    assert distance(solution.u.permute(2, 1, 0), case["u_saveat"]) < 1e-12


@pytest.mark.parametrize("name", SINGLE)
def test_single_precision(name: str) -> None:
    case = Case.load(name)
    # where dt is drawn from rounding (above), the states differ by what the tolerance allows
    exact = case.about["alg"] == "Tsit5" and name not in SINGLE_MOVED
    bound = 2e-6 if exact else case.about["tol"]
    with torch.no_grad():
        solution = case.node(saveat=case["saveat"].tolist())(case.state("u0"))
        end = case.node()(case.state("u0"))
    assert solution.u.dtype == torch.float32
    assert distance(solution.u.permute(2, 1, 0), case["u_saveat"]) < bound
    assert distance(end.u.T, case["u_end"]) < bound
    node = case.node()
    dt0, _ = node.engine.initial_step(problem(node), node.tspan[0], case.state("u0"))
    assert dt0 == pytest.approx(float(case["dt0"]), rel=2e-6)


@pytest.mark.parametrize("name", names("ode", alg="Tsit5", dtype="float64"))
def test_regularizer(name: str) -> None:
    """At each tau: dense output, automatic dt, the solve's dt, EEst, and the four gradients of EEst dt."""
    case = Case.load(name)
    node = case.node()
    p = node.get_parameter("dynamics.p")
    asked = problem(node)
    end = node.tspan[1]
    trajectory = node.engine.solve(asked, case.state("u0"), [end], Keep("all", stages=True))
    times_bound = 5e-5 if name in TIMES_ARE_ROUNDED else 1e-12
    for i, tau in enumerate(case["taus"].tolist()):
        u = torch.from_numpy(np.ascontiguousarray(case["reg_u_tau"][:, :, i].T))
        assert distance(node.engine.interpolate(asked, trajectory, tau), u) < 1e-12
        dt_init, _ = node.engine.initial_step(asked, tau, u)
        assert dt_init == pytest.approx(case["reg_dt_init"][i], rel=1e-12)
        dt_solver = min(trajectory.dt[trajectory.step_at(tau)], end - tau)
        assert dt_solver == pytest.approx(case["reg_dt_solver"][i], rel=times_bound)

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


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("name", names("grad"))
def test_gradients(name: str, adjoint: str) -> None:
    case = Case.load(name)
    node = case.node(abstol=1e-11, reltol=1e-11, adjoint=adjoint)
    u0 = case.state("u0").requires_grad_()
    loss = (case.state("w") * node(u0).u).sum()
    by_p, by_u0 = torch.autograd.grad(loss, (node.get_parameter("dynamics.p"), u0))
    assert float(loss.detach()) == pytest.approx(float(case["loss"]), rel=1e-9)
    assert distance(by_p, case["grad_p"]) < 1e-8
    assert distance(by_u0.T, case["grad_u0"]) < 1e-8


def test_fastpower_is_an_approximate_power() -> None:
    rng = np.random.default_rng(0)
    for x, y in zip(10 ** rng.uniform(-10, 10, 500), rng.uniform(0.01, 1, 500), strict=True):
        assert fastpower(x, y) == pytest.approx(x**y, rel=1e-3)
    assert fastpower(0.0, 0.3) == 0.0
    assert fastpower(0.3, 0.14) != 0.3**0.14  # the approximation itself is what is wanted
