"""The controllers by their formulas, the first step from the last solve, landing without a sliver."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.controller import Constants, IControl, PIDControl
from pylocalreg.engines.torch_engine.landing import evened
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError
from tests.conftest import Net, assert_close, normal, replay
from tests.sde import sde

F64 = np.float64


def make(f: torch.nn.Module | None = None, **options: Any) -> plr.NeuralODE:
    own: dict[str, Any] = {"abstol": 1e-6, "reltol": 1e-6, "engine": "torch"}
    return plr.NeuralODE(f or Net(3), **(own | options))


class Halving:
    """A controller of a user's own: any error at most 1 passes, and steps grow by a tenth."""

    def __init__(self, k: float) -> None:
        self.k = k

    def accept(self, EEst: float) -> bool:
        return EEst <= 1

    def propose(self, dt: float, EEst: float, accepted: bool) -> float:
        return 1.1 * dt if accepted else dt / 2


CONTROLLERS = ["I", "PID", plr.PIDController(1 / 18, 1 / 9, 1 / 18, accept_safety=0.98), Halving]
each_controller = pytest.mark.parametrize("controller", CONTROLLERS, ids=["I", "PID", "H312PID", "own"])


# -- formulas ------------------------------------------------------------------------------------------


def test_the_i_controller() -> None:
    """dt / q with q = EEst^(1/k) / gamma within [1/qmax, 1/qmin], and 10000 in the place of qmax at first."""
    control = IControl(F64, Constants(0.14, 0.08, qsteady_max=1.2), 5)
    assert control.accept(F64(1.0))
    assert not control.accept(F64(1.01))
    for error, accepted, factor in (
        (32.0, False, 0.9 / 2),
        (1e9, False, 0.2),
        (math.nan, False, 0.2),
        (1e-12, True, 0.9 * 1e12 ** (1 / 5)),  # the first
        (1e-12, True, 10.0),
        (1 / 32, True, 1.8),
        (0.9**5 * 1.1**5, True, 1.0),  # q = 1.1 is steady
        (0.0, True, 10.0),
    ):
        proposed = control.propose(F64(0.5), F64(error), accepted)
        assert proposed == pytest.approx(0.5 * factor, rel=1e-4)  # FastPower


def test_the_pid_controller() -> None:
    """The factor's history, its limiter and its own rule of acceptance."""
    control = PIDControl(F64, plr.PIDController(0.7, -0.4, 0.1), Constants(0.14, 0.08), 5)
    errors, inverses = [0.5, 3.0, 0.2, 0.6], [1.0, 1.0, 1.0]
    for error in errors:
        inverses[0] = 1 / error
        product = inverses[0] ** (0.7 / 5) * inverses[1] ** (-0.4 / 5) * inverses[2] ** (0.1 / 5)
        factor = 1 + math.atan(product - 1)
        accepted = control.accept(F64(error))
        assert accepted is (factor >= 0.81)
        assert control.propose(F64(0.5), F64(error), accepted) == pytest.approx(0.5 * factor, rel=1e-14)
        if accepted:
            inverses = [0.0, inverses[0], inverses[1]]
    for broken in (math.nan, math.inf):
        assert not control.accept(F64(broken))
        assert control.propose(F64(0.5), F64(broken), False) == pytest.approx(0.5 * (1 + math.atan(-1)))


def test_coefficients_that_would_accept_any_error_are_refused() -> None:
    """H312PID with the usual rule accepts EEst = 1e8 of a method of order 5: the stack's own risk."""
    with pytest.raises(OptionError, match=r"k = 5 a step with EEst = 20 would be accepted.*accept_safety"):
        make(controller=plr.PIDController(1 / 18, 1 / 9, 1 / 18))(normal(2, 3))


def test_pi_is_the_default() -> None:
    f, u0 = Net(3), normal(4, 3)
    assert (make(f)(u0).steps.dt == make(f, controller="PI")(u0).steps.dt).all()


@each_controller
@pytest.mark.parametrize("solver", ["Tsit5", "VCAB3", "Rodas5P"])
def test_a_solve_keeps_its_tolerance(solver: str, controller: Any) -> None:
    """u' = -u + sin t, whose solution is known, at a tolerance of 1e-6."""
    node = make(lambda t, u: torch.sin(t) - u, tspan=(0.0, 4.0), solver=solver, controller=controller)  # type: ignore[arg-type]
    u0 = normal(5)
    solution = node(u0)
    right = (u0 + 0.5) * math.exp(-4.0) + (math.sin(4.0) - math.cos(4.0)) / 2
    torch.testing.assert_close(solution.u, right, rtol=0, atol=1e-4)
    assert solution.stats.naccept > 3


@each_controller
@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_regularized_gradients_are_those_of_the_steps_taken(sampling: plr.Sampling, controller: Any) -> None:
    f, u0 = Net(3), normal(4, 3)
    regularizer = plr.LocalRegularizer(sampling, generator=torch.Generator().manual_seed(0), scale="linear")
    node = make(f, controller=controller, landing="even", regularizer=regularizer)
    solution = node(u0)
    assert solution.regularization is not None
    assert solution.regularization > 0
    ours = [*torch.autograd.grad(solution.u.square().sum(), [*f.parameters()], retain_graph=True)]
    u = replay(f, u0, solution.steps, TABLEAUS["Tsit5"])[-1]
    assert_close(ours, [*torch.autograd.grad(u.square().sum(), [*f.parameters()])], rtol=1e-9)
    assert all(g.isfinite().all() for g in torch.autograd.grad(solution.regularization, [*f.parameters()]))


@each_controller
def test_an_sde(controller: Any) -> None:
    node = sde("SOSRI2", controller=controller, landing="even")
    solution = node(normal(4, 3))
    again = sde("SOSRI2", controller="PI")(normal(4, 3), noise=solution.noise)
    torch.testing.assert_close(solution.u, again.u, rtol=0, atol=0.1)


# -- what is refused -----------------------------------------------------------------------------------


class Lacking:
    def __init__(self, k: float) -> None:
        """Without propose."""

    def accept(self, EEst: float) -> bool:
        return EEst <= 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"controller": "P"}, "'P' does not exist"),
        ({"controller": 3}, "3 does not exist"),
        ({"controller": Lacking}, "Lacking: it has no propose"),
        ({"controller": "I", "beta1": 0.1}, "beta1 with controller='I'"),
        ({"controller": "PID", "qmax": 5.0, "gamma": 0.8}, "gamma, qmax with controller='PID'"),
        ({"controller": Halving, "qmin": 0.1}, "qmin with controller"),
        ({"landing": "soft"}, "'soft' does not exist"),
        ({"solver": "RK4", "dt": 0.1, "controller": "I", "landing": "even"}, "controller, landing: fixed"),
        ({"solver": "RK4", "dt": "last"}, "fixed steps here"),
        ({"dt": "first"}, "not a number"),
    ],
)
def test_refused_by_name(options: dict[str, Any], match: str) -> None:
    with pytest.raises((OptionError, plr.errors.TimeSpanError), match=match):
        make(**options)


@pytest.mark.parametrize(
    "coefficients", [(math.nan,), (-1.0,), (0.5, -0.5), (0.7, -0.4, 0.0, 1.5), (0.7, -0.4, 0.0, 0.81, 2)]
)
def test_coefficients_that_can_not_be(coefficients: tuple[Any, ...]) -> None:
    with pytest.raises(OptionError, match="PIDController"):
        plr.PIDController(*coefficients)


@pytest.mark.parametrize(
    ("proposed", "match"),
    [(0.0, "same sign"), (math.nan, "same sign"), (-1.0, "same sign"), (2.0, "smaller one")],
)
def test_a_users_proposals_are_held_to_sense(proposed: float, match: str) -> None:
    class Wrong(Halving):
        def accept(self, EEst: float) -> bool:
            return False

        def propose(self, dt: float, EEst: float, accepted: bool) -> float:
            return proposed * dt

    with pytest.raises(OptionError, match=f"Wrong.propose.*{match}"):
        make(controller=Wrong)(normal(2, 3))


def test_a_user_does_not_accept_what_is_not_a_number() -> None:
    class Anything(Halving):
        def accept(self, EEst: float) -> bool:
            return True

    with pytest.raises(OptionError, match=r"Anything\.accept accepted"):
        make(lambda t, u: torch.sqrt(1 - u - t), controller=Anything)(torch.zeros(2).double())  # type: ignore[arg-type]


# -- landing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "step"),
    [
        (0.5, 1.0),
        (1.0, 1.0),
        (1.05, 1.05),
        (1.1, 1.1),
        (1.2, 0.6),
        (2.0, 1.0),
        (2.2, 1.1),
        (2.3, 1.0),
        (9.0, 1.0),
    ],
)
def test_the_step_before_a_stop(distance: float, step: float) -> None:
    assert evened(F64(1.0), F64(distance), F64(0), F64(10)) == pytest.approx(step)


def test_landing_keeps_the_bounds_of_steps() -> None:
    assert evened(F64(1.0), F64(1.05), F64(0), F64(1.0)) == pytest.approx(0.525)
    assert evened(F64(1.0), F64(1.2), F64(0.7), F64(10)) == 1.0


@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
def test_no_sliver_before_tstops_and_the_end(tspan: tuple[float, float]) -> None:
    f, u0 = Net(3), normal(4, 3)
    slivers = []
    for landing in ("cut", "even"):
        steps = make(f, tspan=tspan, tstops=[0.3, 0.61], landing=landing, dt=0.02, qmax=1.2)(u0).steps
        assert {0.3, 0.61, tspan[1]} <= {*(steps.t + steps.dt).round(12)}
        before = np.abs(steps.dt)
        slivers.append((before[1:] / before[:-1]).min())
    assert slivers[0] < 0.45 < slivers[1]


# -- the first step from the last solve ------------------------------------------------------------------


def test_the_first_step_of_the_last_solve() -> None:
    node, u0 = make(dt="last"), normal(4, 3)
    first, second, third = (node(u0) for _ in range(3))
    assert (first.steps.dt == make(node.dynamics)(u0).steps.dt).all()
    EEst, dt = first.steps.EEst[0], first.steps.dt[0]
    assert second.steps.dt[0] == pytest.approx(dt * min(0.9 * EEst ** (-1 / 5), 10))
    assert third.steps.EEst[0] == pytest.approx(0.9**5, abs=0.2)
    assert third.stats.nfe == 1 + 6 * (third.stats.naccept + third.stats.nreject) < first.stats.nfe
    backwards = make(node.dynamics, dt="last", tspan=(1.0, 0.0))
    assert backwards(u0).steps.dt[0] < 0 > backwards(u0).steps.dt[0]


def test_evaluation_does_not_depend_on_training() -> None:
    node, u0 = make(dt="last"), normal(4, 3)
    node(u0)
    node.eval()
    assert (node(u0).steps.dt == make(node.dynamics)(u0).steps.dt).all()
    kept = copy.deepcopy(node.state_dict())
    node(2 * u0)
    torch.testing.assert_close(node.state_dict(), kept, rtol=0, atol=0)


def test_a_resumed_run_takes_the_steps_of_one_never_stopped(tmp_path: Any) -> None:
    u0 = normal(4, 3)

    def train(node: plr.NeuralODE, steps: int) -> list[float]:
        optimizer, ends = torch.optim.SGD(node.parameters(), 0.1), []
        for _ in range(steps):
            solution = node(u0)
            ends.append(float(solution.steps.dt[0]))
            optimizer.zero_grad()
            solution.u.square().sum().backward()
            optimizer.step()
        return ends

    whole = make(Net(3), dt="last")
    stopped = copy.deepcopy(whole)
    right = train(whole, 4)
    ours = train(stopped, 2)
    torch.save(stopped.state_dict(), tmp_path / "model.pt")
    resumed = make(Net(3), dt="last")
    resumed.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert ours + train(resumed, 2) == right
    assert_close([*resumed.parameters()], [*whole.parameters()], rtol=0)
    with pytest.raises(RuntimeError, match="first_step"):
        make(Net(3)).load_state_dict(stopped.state_dict())


def test_the_last_step_fits_the_span_and_the_bounds() -> None:
    node = make(dt="last", dtmax=0.05)
    for _ in range(2):
        assert node(normal(2, 3)).steps.dt.max() <= 0.05
    short = make(lambda t, u: 0 * u, dt="last", tspan=(0.0, 1e-3))  # type: ignore[arg-type]
    assert [short(normal(2)).stats.naccept for _ in range(3)] == [2, 1, 1]


def test_an_sde_s_first_step_of_the_last_solve() -> None:
    node = sde("SOSRI2", dt="last")
    counts = [node(normal(4, 3)).stats for _ in range(2)]
    assert counts[1].nfe < counts[0].nfe
