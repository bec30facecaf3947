"""Peak memory of forward and backward pass against the number of steps: ``python -m benchmarks.memory``.

The paper's Table 1, measured: what each adjoint keeps, and what local regularization adds to it. Every tensor
that comes into being is counted from its making to its freeing, so that the figures are the same on every
machine. Fixed steps of Tsit5, a state of 256 x 16 and a network of 528 parameters: the memory is the states'.
"""

import argparse
import json
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pylocalreg as plr
from pylocalreg.experiments import paper
from pylocalreg.experiments.files import write_text

STEPS = (16, 64, 256, 1024)
BATCH, WIDTH = 256, 16


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside the block and not yet freed; ``peak`` is the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, freed)


@dataclass(frozen=True)
class Contestant:
    """An adjoint, and how many states it keeps after so many steps (None: what it keeps by itself)."""

    name: str
    adjoint: plr.Adjoint
    checkpoints: Callable[[int], int | None] = lambda steps: None


def root(steps: int) -> int:
    return math.ceil(math.sqrt(steps))


CONTESTANTS = (
    Contestant("backsolve", "backsolve"),
    Contestant("backsolve, checkpoints", "backsolve", root),
    Contestant("interpolating", "interpolating"),
    Contestant("interpolating, checkpoints", "interpolating", root),
    Contestant("quadrature", "quadrature"),
    Contestant("gauss", "gauss"),
    Contestant("gauss, checkpoints", "gauss", root),
    Contestant("discrete", "discrete"),
    Contestant("discrete, checkpoints", "discrete", root),
)
REGULARIZERS: dict[str, plr.LocalRegularizer | None] = {
    "vanilla": None,
    "unbiased": plr.LocalRegularizer("unbiased"),
    "biased": plr.LocalRegularizer("biased"),
}


def peak_states(contestant: Contestant, steps: int, regularizer: plr.Regularizer | None) -> float:
    """Peak of one forward and backward pass, in states."""
    torch.manual_seed(0)
    dynamics = plr.Chain(plr.Dense(WIDTH, WIDTH, "tanh"), plr.Dense(WIDTH, WIDTH))
    node = plr.NeuralODE(
        dynamics,
        dt=1 / steps,
        adaptive=False,
        adjoint=contestant.adjoint,
        checkpoints=contestant.checkpoints(steps),
        regularizer=regularizer,
        engine="torch",
    ).double()
    u0 = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    with PeakMemory() as memory:
        solution = node(u0)
        loss = solution.u.square().sum()
        if solution.regularization is not None:
            loss = loss + solution.regularization
        del solution
        loss.backward()
    peak: float = memory.peak / (u0.numel() * u0.element_size())
    return peak


def measure(contestant: Contestant) -> dict[str, list[float]]:
    """Peaks by regularizer, over ``STEPS``."""
    return {
        name: [peak_states(contestant, steps, regularizer) for steps in STEPS]
        for name, regularizer in REGULARIZERS.items()
    }


def growth(peaks: list[float]) -> str:
    """How the peak grows with n steps, by its last two fourfoldings."""
    before, last = peaks[-2] - peaks[-3], peaks[-1] - peaks[-2]
    if abs(last) < 1:
        return "none"
    exponent = math.log(last / before, 4) if before > 0 else math.inf
    if exponent < 0.8:
        return f"n^{exponent:.1f}"
    return f"{last / (STEPS[-1] - STEPS[-2]):.1f} n"


def table(results: dict[str, dict[str, list[float]]]) -> str:
    steps = " | ".join(f"{n} steps" for n in STEPS)
    rows = [
        f"| adjoint | {steps} | growth | unbiased adds | biased adds | paper: without | paper: with |",
        "|---|" + "---:|" * (len(STEPS) + 3) + "---|" * 2,
    ]
    for name, peaks in results.items():
        vanilla = peaks["vanilla"]
        added = []
        for regularizer in ("unbiased", "biased"):
            extra = [a - b for a, b in zip(peaks[regularizer], vanilla, strict=True)]
            added.append(f"{min(extra):.0f} to {max(extra):.0f}")
        said = paper.load().memory.get(name.replace(", ", "_"))
        theirs = ["", ""] if said is None else [said.without, said.with_local]
        columns = [name, *(f"{peak:.0f}" for peak in vanilla), growth(vanilla), *added, *theirs]
        rows.append(f"| {' | '.join(columns)} |")
    return "\n".join(rows)


def draw(results: dict[str, dict[str, list[float]]], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for i, (name, peaks) in enumerate(results.items()):
        style = {"color": f"C{i}", "marker": "o", "markersize": 4, "label": name}
        left.plot(STEPS, peaks["vanilla"], **style)
        extra = [a - b for a, b in zip(peaks["biased"], peaks["vanilla"], strict=True)]
        right.plot(STEPS, extra, **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="steps", ylabel="states", xticks=STEPS, xticklabels=STEPS)
    left.set_yscale("log", base=2)
    left.set(title="peak memory, forward and backward")
    left.legend(fontsize=8)
    right.set(title="what local regularization (biased) adds", ylim=(0, 30))
    figure.savefig(output, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory against the number of steps")
    parser.add_argument("--json", type=Path, help="where to write the figures too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {contestant.name: measure(contestant) for contestant in CONTESTANTS}
    print(table(results))
    if options.json:
        write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
