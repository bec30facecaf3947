"""The callback, with Lightning itself where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal

reason = "Lightning is not installed: pip install lightning"
lightning: Any = pytest.importorskip("lightning.pytorch", reason=reason)

from pylocalreg.integrations.lightning import MonitorCallback  # noqa: E402


class Model(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        regularizer = plr.LocalRegularizer("biased")
        self.node = plr.NeuralODE(Net(3), engine="torch", regularizer=regularizer)
        self.monitor = plr.Monitor(plr.schedules.NFEBudget(10, start=1.0))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        solution = self.node(batch[0])
        loss: torch.Tensor = solution.u.square().mean() + self.monitor(solution)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(model: Model, folder: Path, epochs: int, checkpoint: str | None = None) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[MonitorCallback(model.monitor)],
        logger=lightning.loggers.CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    data = torch.utils.data.TensorDataset(normal(8, 3))
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4), ckpt_path=checkpoint)
    return trainer


def test_it_logs_every_step_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    model = Model()
    trainer = fit(model, tmp_path, epochs=2)
    assert len(model.monitor.history) == 4
    last = model.monitor.history[-1]
    assert float(trainer.logged_metrics["solve/nfe"]) == last["nfe"]
    assert float(trainer.logged_metrics["solve/coefficient"]) == pytest.approx(last["coefficient"])
    (log,) = tmp_path.rglob("metrics.csv")
    assert len([line for line in log.read_text().splitlines() if line]) == 1 + 4

    trainer.save_checkpoint(tmp_path / "checkpoint.ckpt")
    resumed = Model()
    fit(resumed, tmp_path, epochs=3, checkpoint=str(tmp_path / "checkpoint.ckpt"))
    assert len(resumed.monitor.history) == 6
    assert resumed.monitor.history[:4] == model.monitor.history
    assert resumed.monitor.history[4]["coefficient"] > last["coefficient"]
