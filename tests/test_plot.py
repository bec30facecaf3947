"""What the pictures show is what was solved."""

import sys

import numpy as np
import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


def node(solver: str = "Tsit5", dt: float | None = None) -> plr.NeuralODE:
    return plr.NeuralODE(Net(3), engine="torch", solver=solver, dt=dt)


def test_steps_are_a_staircase_of_sizes() -> None:
    solution = node()(normal(5, 3))
    (stairs,) = plr.plot.steps(solution).patches
    values, edges, _ = stairs.get_data()
    np.testing.assert_array_equal(values, solution.steps.dt)
    np.testing.assert_array_equal(edges[:-1], solution.steps.t)
    assert edges[-1] == 1.0


def test_errors_are_the_steps_estimates() -> None:
    solution = node()(normal(5, 3))
    line, _ = plr.plot.errors(solution).lines
    np.testing.assert_array_equal(line.get_ydata(), np.maximum(solution.steps.EEst, 1e-8))
    with pytest.raises(plr.errors.OptionError, match="no error estimate"):
        plr.plot.errors(node("RK4", 0.1)(normal(5, 3)))


def test_training_is_the_monitors_history() -> None:
    history = [{"step": 0.0, "nfe": 50.0}, {"step": 1.0, "nfe": 40.0}]
    line, target = plr.plot.training(history, target=30).lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1], [50, 40])
    assert list(target.get_ydata()) == [30, 30]
    with pytest.raises(plr.errors.OptionError, match="history is empty"):
        plr.plot.training([])


def test_work_precision_of_a_model_that_is_left_as_it_was() -> None:
    model = node().float()
    axis = plr.plot.work_precision(model, normal(5, 3).float(), tolerances=(1e-3, 1e-5, 1e-7))
    again = plr.plot.work_precision(model, normal(5, 3).float(), axis, tolerances=(1e-3, 1e-5, 1e-7))
    assert again is axis
    line, _ = axis.lines
    errors, nfe = line.get_xdata(), line.get_ydata()
    assert list(errors) == sorted(errors)
    assert list(nfe) == sorted(nfe, reverse=True)
    assert errors[0] < 1e-6
    assert model.abstol == 1e-6
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(plr.errors.OptionError, match="two or more"):
        plr.plot.work_precision(model, normal(5, 3), tolerances=(1e-3,))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(plr.errors.OptionError, match="pylocalreg\\[plot\\]"):
        plr.plot.steps(node()(normal(5, 3)))
