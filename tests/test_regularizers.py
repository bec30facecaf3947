"""Local regularization: what is sampled, what the value is, where its gradient flows."""

from itertools import product

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.base import Gradient
from pylocalreg.regularizers import Step
from pylocalreg.regularizers.base import draw
from tests.conftest import Net, drawn_step, normal, replay, replay_at, step_containing, step_error

TOLERANCE = 1e-4
SAMPLINGS: tuple[plr.Sampling, ...] = ("unbiased", "biased")
STEPS: tuple[Step, ...] = ("solver", "initial")
GRADIENTS: tuple[Gradient, ...] = ("exact", "frozen")
COMBINATIONS = [
    plr.LocalRegularizer(*choice, scale="linear")
    for choice in product(SAMPLINGS, STEPS, GRADIENTS, (False, True))
]


def _node(f: torch.nn.Module, regularizer: plr.LocalRegularizer, **options: object) -> plr.NeuralODE:
    defaults: dict[str, object] = {"engine": "torch", "abstol": TOLERANCE, "reltol": TOLERANCE}
    return plr.NeuralODE(f, regularizer=regularizer, **(defaults | options))  # type: ignore[arg-type]


def _automatic_step(f: torch.nn.Module, t: float, u: torch.Tensor, end: float) -> float:
    """The first step a solve over (t, end) takes, when the span does not cut it."""
    with torch.no_grad():
        node = plr.NeuralODE(f, (t, end), abstol=TOLERANCE, reltol=TOLERANCE, engine="torch")
        return float(node(u.detach()).steps.dt[0])


@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, -0.5)])
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
@pytest.mark.parametrize("regularizer", COMBINATIONS, ids=str)
def test_value_and_gradient(
    regularizer: plr.LocalRegularizer, adjoint: str, tspan: tuple[float, float]
) -> None:
    """Against plain autograd through the accepted steps and one more."""
    f, u0 = Net(3), normal(4, 3, seed=2).requires_grad_()
    torch.manual_seed(6)
    solution = _node(f, regularizer, tspan=tspan, adjoint=adjoint)(u0)
    value = solution.regularization
    assert value is not None
    assert value.shape == ()
    assert float(value.detach()) >= 0
    inputs = [u0, *f.parameters()]
    ours = torch.autograd.grad(value, inputs, allow_unused=True)

    torch.manual_seed(6)
    steps, (start, end) = solution.steps, tspan
    if regularizer.sampling == "biased":
        i = drawn_step(steps)
        tau = float(steps.t[i])
        state = replay(f, u0, steps)[i]
    else:
        tau = start + draw(None) * (end - start)
        i = step_containing(steps, tau)
        state = replay_at(f, u0, steps, tau)
    if regularizer.step == "initial":
        dt = _automatic_step(f, tau, state, end)
    else:
        dt = float(np.sign(end - start) * min(abs(steps.dt[i]), abs(end - tau)))
    if not regularizer.through_state:
        state = state.detach()
    right = step_error(f, tau, state, dt, TOLERANCE, TOLERANCE, frozen=regularizer.gradient == "frozen")
    theirs = torch.autograd.grad(right, inputs, allow_unused=True)
    torch.testing.assert_close(value, right, rtol=1e-8, atol=0)
    # the interpolating adjoint pulls u(tau) back by the adjoint equation, right to about the tolerance
    loose = adjoint == "interpolating" and regularizer.through_state
    for x, a, b in zip(inputs, ours, theirs, strict=True):
        a, b = (torch.zeros_like(x) if g is None else g for g in (a, b))
        atol = (3e-2 if loose else 1e-7) * float(b.abs().max()) + 1e-14
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_regularizer_adds_to_the_gradient_of_the_solution(sampling: plr.Sampling) -> None:
    f, u0 = Net(3), normal(4, 3)
    params = list(f.parameters())

    def gradient(of_u: float, of_r: float) -> list[torch.Tensor]:
        torch.manual_seed(1)
        solution = _node(f, plr.LocalRegularizer(sampling), saveat=[0.2, 0.9])(u0)
        assert solution.regularization is not None
        loss = of_u * solution.u.square().sum() + of_r * solution.regularization
        return list(torch.autograd.grad(loss, params))

    for both, u, r in zip(gradient(1, 100), gradient(1, 0), gradient(0, 100), strict=True):
        # both in one sweep, whose rounding is that of the estimate's large terms
        torch.testing.assert_close(both, u + r, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("regularizer", "extra"),
    [
        (plr.LocalRegularizer("biased"), 0),
        (plr.LocalRegularizer("unbiased"), 7),
        (plr.LocalRegularizer.paper(), 9),
    ],
)
def test_calls_are_counted_apart(regularizer: plr.LocalRegularizer, extra: int) -> None:
    f = Net(3)
    calls = []
    f.register_forward_pre_hook(lambda *_: calls.append(1))
    stats = _node(f, regularizer)(normal(4, 3)).stats
    assert stats.nfe == len(calls)
    assert stats.nfe_regularizer == extra
    assert stats.nfe - extra == 3 + 6 * (stats.naccept + stats.nreject)


def test_biased_draws_every_step_alike_and_never_the_end() -> None:
    f, u0 = Net(3), normal(4, 3)
    generator = torch.Generator().manual_seed(0)
    node = _node(f, plr.LocalRegularizer("biased", generator=generator, scale="linear"))
    with torch.no_grad():
        first = node(u0)
        recorded = first.steps.EEst * np.abs(first.steps.dt)
        draws = [float(node(u0).regularization) for _ in range(400)]
    counts = np.array([np.isclose(draws, value, rtol=1e-9).sum() for value in recorded])
    assert counts.sum() == 400
    expected = 400 / len(recorded)
    assert ((counts - expected) ** 2 / expected).sum() < 4 * len(recorded)


def test_drawn_numbers_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = np.array([draw(generator) for _ in range(4000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0], 400, atol=80)


def test_generators() -> None:
    f, u0 = Net(3), normal(4, 3)

    def sequence(generator: torch.Generator | None) -> list[float]:
        node = _node(f, plr.LocalRegularizer("unbiased", generator=generator))
        with torch.no_grad():
            return [float(node(u0).regularization) for _ in range(3)]

    assert sequence(torch.Generator().manual_seed(1)) == sequence(torch.Generator().manual_seed(1))
    assert sequence(torch.Generator().manual_seed(1)) != sequence(torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    one = sequence(None)
    torch.manual_seed(1)
    assert one == sequence(None)


def test_evaluation_mode_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    node = _node(Net(3), plr.LocalRegularizer(generator=generator)).eval()
    before = generator.get_state()
    solution = node(normal(4, 3))
    assert solution.regularization is None
    assert solution.stats.nfe_regularizer == 0
    assert torch.equal(generator.get_state(), before)
    assert node(normal(4, 3), regularize=True).regularization is not None
    assert node.train()(normal(4, 3), regularize=False).regularization is None


def test_paper() -> None:
    paper = plr.LocalRegularizer.paper("biased")
    assert (paper.sampling, paper.step, paper.gradient, paper.through_state) == (
        "biased",
        "initial",
        "frozen",
        False,
    )
