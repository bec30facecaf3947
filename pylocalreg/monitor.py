"""A training loop's one line: the regularizer's term of the loss, its coefficient tuned, written down."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pylocalreg.checks import short
from pylocalreg.errors import OptionError
from pylocalreg.schedules import Constant, NFEBudget
from pylocalreg.solution import Solution


class Writer(Protocol):
    """What is written to: ``torch.utils.tensorboard.SummaryWriter``, say."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """One number of a step."""


class Monitor:
    """``loss = loss + monitor(solution)``: the coefficient times R, with both, and the NFE, written down.

    Args:
        coefficient: a number, a schedule of `pylocalreg.schedules`, or an `NFEBudget`, which then follows
            the solves.
        writer: TensorBoard's folder, a writer with ``add_scalar``, or None.
        prefix: of the names in TensorBoard: ``solve/nfe``, ``solve/regularization``, ``solve/coefficient``.

    Attributes:
        history: of each call ``step``, ``nfe`` (the regularizer's calls left out), ``regularization`` (R) and
            ``coefficient``; what `plot.training` draws.

    Raises:
        OptionError: the coefficient is none, or TensorBoard is not installed.
    """

    def __init__(
        self,
        coefficient: float | Callable[[int], float] = 1.0,
        writer: str | Path | Writer | None = None,
        prefix: str = "solve",
    ) -> None:
        self.coefficient = coefficient if callable(coefficient) else Constant(coefficient)
        self.writer = summary_writer(writer) if isinstance(writer, str | Path) else writer
        if self.writer is not None and not callable(getattr(self.writer, "add_scalar", None)):
            raise OptionError(f"writer = {short(writer)}: give a folder, or one with add_scalar")
        self.prefix = prefix
        self.step = 0
        self.history: list[dict[str, float]] = []

    def __call__(self, solution: Solution) -> torch.Tensor:
        """The term of the loss, a scalar tensor; call it once a training step.

        Raises:
            OptionError: the solution has no regularization.
        """
        R = solution.regularization
        if R is None:
            raise OptionError(
                "the solution has no regularization: its module is in evaluation mode, or was built without "
                "a regularizer"
            )
        weight, stats = float(self.coefficient(self.step)), solution.stats
        if isinstance(self.coefficient, NFEBudget):
            self.coefficient.observe(stats)
        row = {
            "nfe": float(stats.nfe - stats.nfe_regularizer),
            "regularization": float(R.detach()),
            "coefficient": weight,
        }
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f"{self.prefix}/{name}", value, self.step)
        self.history.append({"step": float(self.step), **row})
        self.step += 1
        return weight * R

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        budget = self.coefficient.state_dict() if isinstance(self.coefficient, NFEBudget) else {}
        return {"step": self.step, "history": list(self.history), "budget": budget}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step, self.history = state["step"], list(state["history"])
        if isinstance(self.coefficient, NFEBudget):
            self.coefficient.load_state_dict(state["budget"])


def summary_writer(folder: str | Path, purge_step: int | None = None) -> Any:
    """TensorBoard's writer.

    Raises:
        OptionError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise OptionError(f"tensorboard needs {error.name}: pip install 'pylocalreg[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=purge_step)  # type: ignore[no-untyped-call]
