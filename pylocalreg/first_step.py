"""The first step of a solve from the one before: ``dt="last"``."""

import torch

GAMMA, SHRINK, GROW = 0.9, 0.2, 10.0


class LastStep(torch.nn.Module):
    """The size that the first step of the last training solve should have had, by its own error estimate:
    dt gamma EEst^(-1/k), within [dt/5, 10 dt]. None before the first solve.

    It is in the module's state_dict, so that a run that is resumed takes the steps of one never stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size: float | None = None

    def observe(self, dt: float, EEst: float, k: float) -> None:
        """After a solve whose first step was these; ``k`` is the power of dt that EEst goes with."""
        factor = GROW if EEst == 0 else min(max(GAMMA * EEst ** (-1 / k), SHRINK), GROW)
        self.size = abs(dt) * factor

    def within(self, tspan: tuple[float, float], dtmin: float | None, dtmax: float | None) -> float | None:
        """The first step of a solve over this span, or None for the automatic one."""
        if self.size is None:
            return None
        length = tspan[1] - tspan[0]
        size = min(max(self.size, dtmin or 0.0), dtmax or abs(length), abs(length))
        return size if length > 0 else -size

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor([] if self.size is None else [self.size], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.size = float(state[0]) if len(state) else None
