"""A training loop's one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal


def node(**options: Any) -> plr.NeuralODE:
    regularizer = plr.LocalRegularizer("biased")
    return plr.NeuralODE(Net(3), engine="torch", abstol=1e-8, reltol=1e-8, regularizer=regularizer, **options)


class Written:
    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.rows.append((tag, scalar_value, global_step))


def test_the_term_is_the_coefficient_times_R_and_is_written_down() -> None:
    writer = Written()
    monitor = plr.Monitor(plr.schedules.Exponential(4.0, 1.0, 2), writer)
    model = node()
    for step, coefficient in enumerate((4.0, 2.0, 1.0)):
        solution = model(normal(5, 3))
        assert solution.regularization is not None
        assert torch.equal(monitor(solution), coefficient * solution.regularization)
        row = {
            "step": step,
            "nfe": solution.stats.nfe - solution.stats.nfe_regularizer,
            "regularization": float(solution.regularization.detach()),
            "coefficient": coefficient,
        }
        assert monitor.history[-1] == row
        assert writer.rows[-3:] == [(f"solve/{name}", row[name], step) for name in list(row)[1:]]


def test_a_budget_follows_and_goes_on_after_a_resume() -> None:
    model, budget = node(), plr.schedules.NFEBudget(10, start=1.0)
    monitor = plr.Monitor(budget)
    for _ in range(3):
        monitor(model(normal(5, 3)))
    coefficients = [row["coefficient"] for row in monitor.history]
    assert coefficients[0] == 1.0
    assert coefficients == sorted(set(coefficients))  # a solve takes more than 10
    resumed = plr.Monitor(plr.schedules.NFEBudget(10, start=1.0))
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.history == monitor.history
    for of in (monitor, resumed):
        of(model(normal(5, 3)))
    assert resumed.history[-1]["step"] == 3
    assert resumed.history[-1]["coefficient"] == monitor.history[-1]["coefficient"] > coefficients[-1]


def test_a_loss_of_one_line_trains() -> None:
    model, monitor = node(), plr.Monitor(10.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(20):
        optimizer.zero_grad()
        monitor(model(normal(5, 3))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert monitor.history[-1]["nfe"] < monitor.history[0]["nfe"]


def test_tensorboards_own_folder(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = plr.Monitor(2.0, tmp_path)
    monitor(node()(normal(5, 3)))
    monitor.writer.close()  # type: ignore[union-attr]
    written = accumulator.EventAccumulator(str(tmp_path)).Reload()
    for name in ("nfe", "regularization", "coefficient"):
        (event,) = written.Scalars(f"solve/{name}")
        assert event.value == pytest.approx(monitor.history[0][name], rel=1e-6)


def test_what_can_not_be_monitored_is_refused() -> None:
    with pytest.raises(plr.errors.OptionError, match="no regularization"):
        plr.Monitor(1.0)(node().eval()(normal(5, 3)))
    with pytest.raises(plr.errors.OptionError, match="give a folder"):
        plr.Monitor(1.0, writer=3)  # type: ignore[arg-type]
    with pytest.raises(plr.errors.OptionError, match="not a number"):
        plr.Monitor("much")  # type: ignore[arg-type]
