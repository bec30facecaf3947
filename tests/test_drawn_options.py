"""Options of the solve in combinations that nobody chose: layers that are recognized, and taken, kept or
reversed among their hidden values, give what the same as a module of one's own gives.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import pylocalreg as plr
from pylocalreg.dynamics import LayerDynamics
from pylocalreg.engines.torch_engine.explicit_rk import narrow_chain
from tests.conftest import Unknown, assert_close, normal

WIDTH = 10


FIELDS: dict[str, Callable[[], nn.Module]] = {
    "timed": lambda: LayerDynamics(
        plr.TimeDependent(plr.Dense(WIDTH, 3, "tanh"), plr.Dense(3, WIDTH)),
    ),
    "three layers": lambda: LayerDynamics(
        plr.Chain(plr.Dense(WIDTH, 3, "tanh"), plr.Dense(3, 4, "swish"), plr.Dense(4, WIDTH)),
    ),
    "Sequential": lambda: nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, WIDTH)),
    "Sequential of three": lambda: nn.Sequential(
        nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, WIDTH, bias=False)
    ),
}
REGULARIZERS: list[Callable[[torch.Generator], plr.Regularizer | None]] = [
    lambda g: None,
    lambda g: plr.LocalRegularizer("biased", generator=g),
    lambda g: plr.LocalRegularizer("biased", samples=3, through_state=True, generator=g),
    lambda g: plr.LocalRegularizer("biased", importance="estimate", generator=g),
    lambda g: plr.LocalRegularizer("unbiased", generator=g),
    lambda g: plr.LocalRegularizer.paper(generator=g),
]


def drawn(chance: random.Random) -> dict[str, Any]:
    """Some options, and all of the tolerances, the method and the span."""
    start, end = chance.choice([(0.0, 1.0), (1.0, 0.0), (-0.5, 1.5)])
    options: dict[str, Any] = {
        "abstol": 10 ** -chance.uniform(3, 6),
        "reltol": 10 ** -chance.uniform(3, 6),
        "solver": chance.choice(["Tsit5", "BS3", "DP5", "Vern7"]),
        "tspan": (start, end),
        "adjoint": chance.choice(["discrete", "discrete", "discrete", "interpolating", "backsolve"]),
    }
    some: list[dict[str, Any]] = [
        {"saveat": sorted((chance.uniform(start, end) for _ in range(3)), reverse=start > end)},
        {"controller": chance.choice(["I", "PI", "PID"])},
        {"landing": "even"},
        {"dt": chance.choice(["last", 0.03])},
    ]
    if options["adjoint"] == "discrete":
        some.append(chance.choice([{"keep_stages": True}, {"keep_stages": "auto"}, {"checkpoints": 2}]))
    for option in some:
        if chance.random() < 0.4:
            options |= option
    return options


@pytest.mark.parametrize("draw", range(60))
def test_layers_give_what_a_module_of_ones_own_gives(draw: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_chain, "WORTH", 0)
    chance = random.Random(draw)
    build, regularizer = FIELDS[chance.choice(list(FIELDS))], chance.choice(REGULARIZERS)
    options = drawn(chance)
    frozen = chance.randrange(8)
    found = []
    for own in (False, True):
        torch.manual_seed(draw)
        field = build().double()
        for number, parameter in enumerate(field.parameters()):
            parameter.requires_grad_(number != frozen)
        term = regularizer(torch.Generator().manual_seed(draw))
        node = plr.NeuralODE(Unknown(field) if own else field, engine="torch", regularizer=term, **options)
        for seed in range(2):  # the second by what the first left: a step size, buffers
            u0 = normal(5, WIDTH, seed=seed).requires_grad_()
            solution = node(u0)
            loss = solution.u.square().sum()
            if solution.regularization is not None:
                loss = loss + solution.regularization
            wanted = [u0, *(p for p in field.parameters() if p.requires_grad)]
            found.append((solution, list(torch.autograd.grad(loss, wanted))))
    for (ours, by_ours), (theirs, by_theirs) in zip(found[:2], found[2:], strict=True):
        assert ours.stats == theirs.stats
        assert_close([ours.u], [theirs.u], rtol=1e-11)
        assert_close(by_ours, by_theirs, rtol=1e-6)
