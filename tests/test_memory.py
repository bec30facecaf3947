"""The growth of memory with the number of steps, as docs/memory.md has it."""

import pytest
import torch

import pylocalreg as plr
from benchmarks.memory import CONTESTANTS, REGULARIZERS, Contestant, PeakMemory, peak_states

STAGES = 7
FEW, MORE, MOST = 16, 64, 256

each = pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)


def test_what_is_counted() -> None:
    with PeakMemory() as memory:
        a = torch.zeros(100, dtype=torch.float64)
        b = a.view(10, 10)
        b.add_(1)
        assert (memory.now, memory.peak) == (800, 800)
        c = a + b.reshape(-1)
        assert (memory.now, memory.peak) == (1600, 1600)
        del a, b, c
        assert (memory.now, memory.peak) == (0, 1600)


@each
def test_growth(contestant: Contestant) -> None:
    peak_states(contestant, FEW, None)  # what a process makes once and keeps is there then
    few, more, most = (peak_states(contestant, steps, None) for steps in (FEW, MORE, MOST))
    if contestant.name == "backsolve":
        assert few == more == most
        return
    per_step = {"interpolating": STAGES, "gauss": STAGES, "quadrature": 2 * STAGES, "discrete": 1}
    if contestant.name in per_step:
        assert (most - more) / (MOST - MORE) == pytest.approx(per_step[contestant.name], rel=0.02)
    else:  # the square root: doubles with every four times as many steps
        assert most - more == pytest.approx(2 * (more - few), rel=0.1)


SHOWN = "backsolve", "interpolating", "discrete"
"""Whose figures the others' follow."""


@pytest.mark.parametrize(
    ("contestant", "name"),
    [
        pytest.param(
            contestant,
            ("unbiased", "biased")[i % 2],
            marks=() if contestant.name in SHOWN else pytest.mark.thorough,
        )
        for i, contestant in enumerate(CONTESTANTS)
    ],
    ids=lambda of: getattr(of, "name", of),
)
def test_regularization_adds_the_same_for_any_number_of_steps(contestant: Contestant, name: str) -> None:
    regularizer = REGULARIZERS[name]
    added = [
        peak_states(contestant, steps, regularizer) - peak_states(contestant, steps, None)
        for steps in (FEW, MOST)
    ]
    assert all(-1 <= extra <= 4 * STAGES for extra in added)
    assert abs(added[1] - added[0]) < 5


def test_a_global_regularizer_goes_with_checkpoints() -> None:
    checkpointed = next(c for c in CONTESTANTS if c.name == "discrete, checkpoints")
    few, most = (peak_states(checkpointed, steps, plr.GlobalRegularizer()) for steps in (MORE, MOST))
    assert most < 2.5 * few
