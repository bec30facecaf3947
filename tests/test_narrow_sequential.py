"""``torch.nn.Sequential`` of linear layers narrower than its state: steps among its hidden values are those
of the same as a module of one's own, which is called for every stage.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import pylocalreg as plr
from pylocalreg.engines.torch_engine.explicit_rk import narrow_chain
from tests.conftest import Unknown, assert_close, normal


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_chain, "WORTH", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often linear layers are called, in its only element."""
    count, forward = [0], nn.Linear.forward

    def counted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    return count


def sequential(*activations: nn.Module, widths: tuple[int, ...] = (24, 4, 24)) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(inputs, outputs), *activations[i : i + 1]]
    return nn.Sequential(*layers).double()


def pair(field: nn.Module, **options: Any) -> tuple[plr.NeuralODE, plr.NeuralODE]:
    """The layers, and the same as a function of which nothing is known."""

    options = {"engine": "torch", "abstol": 1e-6, "reltol": 1e-6, **options}
    regularizer: Any = options.pop("regularizer", lambda _: None)
    known, unknown = (
        plr.NeuralODE(f, regularizer=regularizer(torch.Generator().manual_seed(0)), **options)
        for f in (field, Unknown(field))
    )
    return known, unknown


def of(node: plr.NeuralODE, calls: list[int]) -> tuple[plr.Solution, list[torch.Tensor | None], bool]:
    """A solve, the gradients of a loss of it, and whether layers were called for them."""
    u0 = normal(40, 24).requires_grad_()
    solution = node(u0)
    loss = solution.u.square().sum()
    if solution.regularization is not None:
        loss = loss + 100 * solution.regularization
    before = calls[0]
    wanted = [u0, *(p for p in node.parameters() if p.requires_grad)]
    gradients: list[torch.Tensor | None] = list(torch.autograd.grad(loss, wanted, allow_unused=True))
    return solution, gradients, calls[0] > before


def assert_reversed(calls: list[int], field: nn.Module, called: bool = False, **options: Any) -> None:
    known, unknown = pair(field, **options)
    solution, ours, was_called = of(known, calls)
    solved, right, _ = of(unknown, calls)
    assert was_called == called
    assert solution.stats == solved.stats
    rtol = 1e-11 if solution.regularization is None else 1e-7
    assert_close([x for x in ours if x is not None], [x for x in right if x is not None], rtol=rtol)
    assert [x is None for x in ours] == [x is None for x in right]


@pytest.mark.parametrize(
    "activation",
    [
        nn.Tanh(),
        nn.Sigmoid(),
        nn.ReLU(),
        nn.SiLU(),
        nn.ELU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.Softplus(beta=2.0, threshold=5.0),
        nn.Identity(),
    ],
)
def test_every_activation(activation: nn.Module, calls: list[int]) -> None:
    assert_reversed(calls, sequential(activation))


def test_layers_between(calls: list[int]) -> None:
    assert_reversed(calls, sequential(nn.Tanh(), nn.SiLU(), widths=(24, 3, 5, 4, 24)))


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1, 2, 3)])
def test_frozen_parameters(frozen: tuple[int, ...], calls: list[int]) -> None:
    field = sequential(nn.Tanh())
    for i, p in enumerate(field.parameters()):
        p.requires_grad_(i not in frozen)
    assert_reversed(calls, field)


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({"saveat": (0.1, 0.2, 0.25)}, False),
        ({"regularizer": lambda g: plr.LocalRegularizer("biased", generator=g)}, False),
        ({"regularizer": lambda g: plr.LocalRegularizer("unbiased", generator=g)}, False),
        ({"regularizer": lambda g: plr.LocalRegularizer("biased", gradient="frozen", generator=g)}, True),
        ({"keep_stages": True}, False),
        ({"checkpoints": 1}, True),
        ({"tstops": [0.3]}, True),
    ],
)
@pytest.mark.parametrize("widths", [(24, 4, 24), (24, 4, 3, 24)])
def test_options(options: dict[str, Any], called: bool, widths: tuple[int, ...], calls: list[int]) -> None:
    activations = (nn.Tanh(), nn.Sigmoid())[: len(widths) - 2]
    assert_reversed(calls, sequential(*activations, widths=widths), called=called, **options)


def test_a_compiled_solve_takes_the_same_steps(calls: list[int]) -> None:
    field = sequential(nn.Tanh())
    (ours, gradients, _), (right, of_right, _) = (
        of(pair(field, compile=True)[0], calls),
        of(pair(field)[1], calls),
    )
    assert ours.stats == right.stats
    assert_close([ours.u, *gradients], [right.u, *of_right], rtol=1e-9)  # type: ignore[list-item]


class Own(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def own_layer() -> nn.Module:
    return nn.Sequential(Own(24, 4), nn.Tanh(), nn.Linear(4, 24)).double()


def hooked() -> nn.Module:
    field = sequential(nn.Tanh())
    field[0].register_forward_hook(lambda module, args, output: 2 * output)
    return field


def patched() -> nn.Module:
    field, forward = sequential(nn.Tanh()), nn.Linear.forward
    field[2].forward = lambda x: 2 * forward(field[2], x)  # type: ignore[arg-type, method-assign]
    return field


def normed() -> nn.Module:
    field = sequential(nn.Tanh())
    nn.utils.parametrizations.weight_norm(field[0])
    return field


def tied() -> nn.Module:
    down, up = nn.Linear(24, 4).double(), nn.Linear(4, 24).double()
    return nn.Sequential(down, nn.Tanh(), up, down, up)


@pytest.mark.parametrize(
    "build",
    [
        own_layer,
        hooked,
        patched,
        normed,
        tied,
        lambda: sequential(nn.Hardtanh()),
        lambda: sequential(nn.ELU(alpha=0.5)),
        lambda: sequential(nn.Tanh(), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(24, 4, bias=False), nn.Tanh(), nn.Linear(4, 24)).double(),
        lambda: nn.Sequential(sequential(nn.Tanh()), nn.Identity()),
    ],
)
def test_others_are_called(build: Any, calls: list[int]) -> None:
    assert_reversed(calls, build(), called=True)
