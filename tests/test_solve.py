"""The embedded engine on problems with known solutions."""

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Keep, Problem, Trajectory
from tests.conftest import Dynamics, Net, normal
from tests.julia import ENGINES

OSCILLATOR = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
PROBLEMS: dict[str, tuple[Dynamics, Dynamics]] = {
    # name: (f(t, u), u(t) from u(0) = u0)
    "decay": (lambda t, u: -2 * u, lambda t, u: u * torch.exp(-2 * t)),
    "logistic": (lambda t, u: u * (1 - u), lambda t, u: 1 / (1 + (1 / u - 1) * torch.exp(-t))),
    "time": (lambda t, u: torch.cos(t) * u, lambda t, u: u * torch.exp(torch.sin(t))),
    "oscillator": (
        lambda t, u: u @ OSCILLATOR.to(u.dtype),
        lambda t, u: u @ torch.linalg.matrix_exp(t * OSCILLATOR).to(u.dtype),
    ),
}


@pytest.mark.parametrize("end", [2.0, -1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_known_solutions(name: str, dtype: torch.dtype, tolerance: float, end: float) -> None:
    f, right = PROBLEMS[name]
    u0 = torch.tensor([[0.3, 0.5], [0.2, 0.1]], dtype=dtype)
    times = np.linspace(0.0, end, 7)
    node = plr.NeuralODE(
        f, (0.0, end), abstol=tolerance, reltol=tolerance, saveat=times.tolist(), engine="torch"
    )
    solution = node(u0)
    assert solution.u.dtype == dtype
    for t, u in zip(solution.t, solution.u, strict=True):
        expected = right(torch.tensor(t, dtype=torch.float64), u0.double())
        assert float((u.double() - expected).abs().max()) < 200 * tolerance


def _one_step(dt: float) -> plr.Solution:
    """One step of the logistic equation, not adapted."""
    node = plr.NeuralODE(PROBLEMS["logistic"][0], (0.0, dt), dt=dt, abstol=1e3, reltol=1e3, engine="torch")
    solution: plr.Solution = node(torch.tensor([0.3], dtype=torch.float64), dense=True)
    assert solution.stats.naccept == 1
    return solution


@pytest.mark.parametrize(("theta", "order"), [(1.0, 6), (0.37, 5)])
def test_local_order(theta: float, order: int) -> None:
    """The error of a step is O(dt^6), of its dense output inside O(dt^5)."""
    errors = []
    for dt in (0.8, 0.4):
        t = torch.tensor(theta * dt, dtype=torch.float64)
        right = PROBLEMS["logistic"][1](t, torch.tensor([0.3], dtype=torch.float64))
        errors.append(float((_one_step(dt)(theta * dt) - right).abs()))
    assert math.log2(errors[0] / errors[1]) > order - 0.5


def test_dense_output_meets_the_steps() -> None:
    node = plr.NeuralODE(Net(3), (0.0, 2.0), engine="torch")
    u0 = normal(4, 3)
    with torch.no_grad():
        solution = node(u0, dense=True)
        at_steps = node(u0, saveat=solution.steps.t.tolist())
    torch.testing.assert_close(solution(0.0), u0)
    torch.testing.assert_close(solution(2.0), solution.u, rtol=1e-12, atol=1e-12)
    for t, u in zip(at_steps.t, at_steps.u, strict=True):
        torch.testing.assert_close(solution(float(t)), u, rtol=1e-12, atol=1e-12)
    with pytest.raises(plr.errors.SaveAtError, match=r"2\.5"):
        solution(2.5)
    with pytest.raises(plr.errors.OptionError, match="dense=True"):
        node(u0)(0.5)


def test_saveat_changes_no_step() -> None:
    node, u0 = plr.NeuralODE(Net(3), engine="torch"), normal(4, 3)
    with torch.no_grad():
        plain, saved = node(u0), node(u0, saveat=[0.0, 0.1, 0.11, 0.5, 1.0])
    assert plain.stats == saved.stats
    np.testing.assert_array_equal(plain.steps.t, saved.steps.t)
    assert torch.equal(saved.u[0], u0)
    assert torch.equal(saved.u[-1], plain.u)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("saveat", [None, [0.21, 0.22, 1.3, 2.0]])
@pytest.mark.parametrize("solver", ["BS3", "DP5", "Euler", "RK4", "Tsit5", "VCAB3", "VCABM3", "Vern7"])
@torch.no_grad()
def test_every_call_is_counted(solver: str, saveat: list[float] | None, engine: str) -> None:
    """``nf`` leaves out what the stack does: VCAB3's first call and Vern7's interpolant."""
    made = 0

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        return torch.cos(3 * t) * u

    dt = 0.05 if solver in ("Euler", "RK4") else None
    node = plr.NeuralODE(f, (0.0, 2.0), solver=solver, dt=dt, saveat=saveat, engine=engine)
    stats = node(normal(3, 2)).stats
    assert stats.nfe == made
    of_interpolants = 2 * 6 if solver == "Vern7" and saveat is not None else 0  # two steps hold asked times
    assert stats.nfe - stats.nf == (solver == "VCAB3") + of_interpolants


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (1, 2, 1, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    u0 = normal(*shape)
    kept = u0.clone()
    solution = plr.NeuralODE(lambda t, u: torch.sin(u) + t, engine="torch")(u0)
    assert solution.u.shape == shape
    assert torch.equal(u0, kept)
    flat = plr.NeuralODE(lambda t, u: torch.sin(u) + t, engine="torch")(u0.reshape(-1))
    torch.testing.assert_close(solution.u.reshape(-1), flat.u)


def test_state_that_is_not_contiguous() -> None:
    u0 = normal(3, 4).t()
    node = plr.NeuralODE(Net(3), engine="torch")
    torch.testing.assert_close(node(u0).u, node(u0.contiguous()).u, rtol=0, atol=0)


def test_nothing_is_kept_where_nothing_is_asked() -> None:
    problem = Problem(Net(3), (), (0.0, 1.0), "Tsit5", 1e-6, 1e-6, 1000)
    trajectory = get_engine("torch").solve(problem, normal(4, 3), [1.0], Keep())
    assert trajectory.naccept > 3
    assert list(trajectory.u) == [trajectory.naccept]
    assert trajectory.k == {}
    assert not trajectory.outputs[0].requires_grad


@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("backward", [False, True])
def test_memory_goes_with_the_solution(
    adjoint: plr.Adjoint, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cycle is left for the garbage collector, which counts neither tensors' nor GPUs' bytes."""
    node = plr.NeuralODE(
        Net(3),
        engine="torch",
        adjoint=adjoint,
        regularizer=plr.LocalRegularizer("biased", through_state=True),
    )
    solve, kept = node.engine.solve, []

    def watched(*arguments: Any) -> Trajectory:
        trajectory = solve(*arguments)
        kept.append(weakref.ref(trajectory))
        return trajectory

    monkeypatch.setattr(node.engine, "solve", watched)
    gc.disable()
    try:
        solution = node(normal(4, 3), saveat=[0.5, 1.0])
        if backward:
            (solution.u.sum() + solution.regularization).backward()
        del solution
        assert [trajectory() for trajectory in kept] == [None]
    finally:
        gc.enable()


def test_forward_solve_builds_no_graph() -> None:
    seen = []
    f = Net(3)
    f.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    solution = plr.NeuralODE(f, engine="torch")(normal(4, 3))
    assert solution.u.requires_grad
    assert seen[0]  # the first call shows what the dynamics reach
    assert not any(seen[1:])
