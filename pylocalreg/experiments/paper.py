"""The paper's own numbers: of its abstract and its tables 1 to 4."""

from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pylocalreg.errors import ConfigError
from pylocalreg.experiments import plain_yaml
from pylocalreg.experiments.typed import problems

Printed = tuple[float, float]
"""Mean and standard deviation."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cells(_Part):
    """A row of tables 2 to 4, in the units they are printed in; None where there is no such column.

    Attributes:
        from_2021: the paper took the row from Pal et al. (2021), with the clock of another machine.
        train_accuracy, test_accuracy: in percent.
        test_loss: a mean squared error, in units of 1e-3.
        train_hours: of the whole training; ``train_seconds_a_batch`` of one training step.
        prediction_seconds: for a batch.
        test_nfe: evaluations a solve.
    """

    from_2021: bool = False
    train_accuracy: Printed | None = None
    test_accuracy: Printed | None = None
    test_loss: Printed | None = None
    train_hours: Printed | None = None
    train_seconds_a_batch: Printed | None = None
    prediction_seconds: Printed | None = None
    test_nfe: Printed | None = None

    def of(self, attribute: str, steps: int) -> Printed | None:
        """What stands for a `Record`'s attribute, in its units, of a training of so many steps."""
        known = {
            "train_score": _times(self.train_accuracy, 1),
            "test_score": _times(self.test_accuracy, 1) or _times(self.test_loss, 1e-3),
            "train_seconds": _times(self.train_hours, 3600) or _times(self.train_seconds_a_batch, steps),
            "prediction_seconds": self.prediction_seconds,
            "test_nfe": self.test_nfe,
        }
        return known[attribute]

    def ratio(self, vanilla: "Cells | None", attribute: str) -> float | None:
        """Of the means, to vanilla's; None where one of them is not known."""
        one, other = self.of(attribute, 1), None if vanilla is None else vanilla.of(attribute, 1)
        return None if one is None or other is None else one[0] / other[0]


def _times(printed: Printed | None, factor: float) -> Printed | None:
    return None if printed is None else (printed[0] * factor, printed[1] * factor)


class Abstract(_Part):
    """Ranges over the paper's experiments, of local regularization to vanilla."""

    nfe_ratio: tuple[float, float]
    prediction_speedup: tuple[float, float]


class Memory(_Part):
    """A row of table 1: without and with local regularization."""

    without: str
    with_local: str = Field(alias="with")


class Paper(_Part):
    """Of tables 2 to 4 the rows by experiment and method."""

    abstract: Abstract
    memory: dict[str, Memory] = {}
    cells: dict[str, dict[str, Cells]]


def load(path: Path | None = None) -> Paper:
    """The packaged numbers, or a file of their form.

    Raises:
        ConfigError: the file can not be read, or has another form.
    """
    packaged = resources.files("pylocalreg.experiments") / "paper_numbers.yaml"
    try:
        return Paper.model_validate(
            plain_yaml.parse(packaged.read_text(encoding="utf-8"), packaged.name)
            if path is None
            else plain_yaml.read(path)
        )
    except ValidationError as error:
        raise ConfigError(f"{path} does not hold the paper's numbers: {problems(error)}") from error
