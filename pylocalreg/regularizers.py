"""What is sampled where: the local error of one step as a term of the loss."""

from dataclasses import dataclass
from typing import Literal

import torch

from pylocalreg.engines.base import Gradient
from pylocalreg.errors import OptionError

Sampling = Literal["unbiased", "biased"]
Step = Literal["solver", "initial"]


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} = {value!r} does not exist: choose one of {choices}")


@dataclass(frozen=True)
class LocalRegularizer:
    """R = EEst * |dt| of one solver step at a sampled time tau (Pal, Edelman, Rackauckas 2023, section 3).

    Args:
        sampling: ``"unbiased"``: tau is uniform over the time span; ``"biased"``: uniform over the starts of
            the accepted steps.
        step: ``"solver"``: dt is the one the solve took at tau, cut at the end of the span;
            ``"initial"``: the automatic first step at u(tau), as in the paper's code.
        gradient: ``"exact"``: through every stage; ``"frozen"``: the first stage is held constant, as in
            the paper's code.
        through_state: whether the gradient also flows through u(tau). dt is held constant always.
        generator: where the sampled times come from; torch's global CPU generator if None.

    Biased with the solver's step takes no extra evaluation forward: the estimate is the recorded step's.

    Raises:
        OptionError: an option has a value that does not exist, or the generator is not a CPU one.
    """

    sampling: Sampling = "unbiased"
    step: Step = "solver"
    gradient: Gradient = "exact"
    through_state: bool = False
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _choose("sampling", self.sampling, ("unbiased", "biased"))
        _choose("step", self.step, ("solver", "initial"))
        _choose("gradient", self.gradient, ("exact", "frozen"))
        if self.generator is not None and self.generator.device.type != "cpu":
            raise OptionError(
                f"the sampled time is drawn on the CPU: take torch.Generator(), not one on "
                f"{self.generator.device}"
            )

    @classmethod
    def paper(
        cls, sampling: Sampling = "unbiased", generator: torch.Generator | None = None
    ) -> "LocalRegularizer":
        """What LocalRegNeuralDE.jl (2023) computes: automatic step at tau, first stage held constant."""
        return cls(sampling, step="initial", gradient="frozen", generator=generator)

    @property
    def reads_record(self) -> bool:
        """Whether the estimate is that of a recorded step, and no step is taken anew."""
        return self.sampling == "biased" and self.step == "solver"

    def draw(self) -> float:
        """A number uniform in [0, 1)."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))
