"""A Lightning callback for a `Monitor`. Needs Lightning: pip install lightning, or pytorch_lightning."""

from typing import Any

from pylocalreg.monitor import Monitor

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "pylocalreg.integrations.lightning needs Lightning: pip install lightning", name="lightning"
        ) from missing


class MonitorCallback(Callback):  # type: ignore[misc]
    """Logs what a `Monitor` wrote down in each training step to the trainer's loggers, and keeps its state, a
    budget's coefficient too, in Lightning's checkpoints.

    In the module's ``training_step``: ``loss = loss + self.monitor(solution)``; then
    ``Trainer(callbacks=[MonitorCallback(model.monitor)])``.

    Args:
        monitor: the one that the training step calls.
        prog_bar: whether the numbers also stand beside the progress bar.
    """

    def __init__(self, monitor: Monitor, prog_bar: bool = False) -> None:
        super().__init__()
        self.monitor, self.prog_bar = monitor, prog_bar

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.monitor.history:
            return
        row = {
            f"{self.monitor.prefix}/{name}": value
            for name, value in self.monitor.history[-1].items()
            if name != "step"
        }
        pl_module.log_dict(row, prog_bar=self.prog_bar, on_step=True, on_epoch=False)

    def state_dict(self) -> dict[str, Any]:
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.monitor.load_state_dict(state_dict)
