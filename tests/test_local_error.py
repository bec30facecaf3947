"""The regularizer that stands alone."""

from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal, step_error


@pytest.mark.parametrize("gradient", ["exact", "frozen"])
@pytest.mark.parametrize("dt", [0.3, -0.2])
def test_against_the_textbook(dt: float, gradient: str) -> None:
    f, u = Net(3), normal(5, 3).requires_grad_()
    ours = plr.local_error(f, u, 0.4, dt, abstol=1e-3, reltol=1e-2, gradient=gradient)  # type: ignore[arg-type]
    right = step_error(f, 0.4, u, dt, 1e-3, 1e-2, frozen=gradient == "frozen")
    torch.testing.assert_close(ours, right, rtol=1e-10, atol=0)
    inputs = [u, *f.parameters()]
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(right, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_frozen_is_another_gradient() -> None:
    f, u = Net(3), normal(5, 3)
    exact, frozen = (
        torch.autograd.grad(plr.local_error(f, u, 0.0, 0.3, gradient=g), f.w1)[0] for g in ("exact", "frozen")
    )
    assert float((exact - frozen).norm()) > 0.1 * float(exact.norm())


def test_derivatives_of_every_order() -> None:
    f = Net(2)

    def value(u: torch.Tensor) -> torch.Tensor:
        return plr.local_error(f, u, 0.1, 0.8, abstol=0.1, reltol=0.1)

    u = normal(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(value, (u,))
    assert torch.autograd.gradgradcheck(value, (u,))


def test_constant_dynamics_have_no_error_and_no_nan_gradient() -> None:
    c = torch.ones(3, dtype=torch.float64, requires_grad=True)
    value = plr.local_error(lambda t, u: c * torch.ones_like(u), normal(2, 3), 0.0, 0.1)
    assert float(value.detach()) < 1e-9
    assert torch.isfinite(torch.autograd.grad(value, c)[0]).all()


def test_dt_is_taken_from_the_other_solvers_record() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    f, record = Net(3), plr.StepRecord()
    f.callback_accept_step = record.accept  # type: ignore[assignment]
    for span in ((0.0, 1.0), (0.0, 1.0), (1.0, 0.0)):  # one solve after the other, and backwards
        torchdiffeq.odeint(f, normal(5, 3), torch.tensor(span, dtype=torch.float64))
        sizes = [record.dt_at(t) for t in np.linspace(*span, 200)]
        assert all(size * (span[1] - span[0]) > 0 for size in sizes)
        assert len(set(sizes)) > 3
        at = 0.4
        ours = plr.local_error(f, normal(5, 3), at, record)
        assert torch.equal(ours, plr.local_error(f, normal(5, 3), at, record.dt_at(at)))


def test_a_record_of_step_times() -> None:
    record = plr.StepRecord([0.0, 0.1, 0.4, float("inf")])
    assert len(record) == 2
    assert [record.dt_at(t) for t in (0.0, 0.1, 0.2, 0.4)] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    with pytest.raises(plr.errors.TimeSpanError, match="outside of the recorded steps"):
        record.dt_at(0.5)
    with pytest.raises(plr.errors.TimeSpanError, match="holds no step"):
        plr.local_error(Net(3), normal(3), 0.0, plr.StepRecord())
    with pytest.raises(plr.errors.TimeSpanError, match="both ways"):
        plr.StepRecord([0.0, 1.0, 0.5])


@pytest.mark.parametrize("solver", ["BS3", "Tsit5", "Vern7"])
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_step_for_each_sample(solver: str, gradient: Any, scale: Any) -> None:
    f, t, dt = Net(3), normal(5, seed=1), normal(5, seed=2)
    options: dict[str, Any] = {
        "abstol": 1e-3,
        "reltol": 1e-2,
        "solver": solver,
        "gradient": gradient,
        "scale": scale,
    }
    ours = plr.local_error(lambda t, u: f(t[:, None], u), normal(5, 3), t, dt, **options)
    each = [
        plr.local_error(f, u, a, b, **options)
        for u, a, b in zip(normal(5, 3), t.tolist(), dt.tolist(), strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(each), rtol=1e-9, atol=1e-14)
    by_all = torch.autograd.grad(ours.sum(), list(f.parameters()))
    by_each = torch.autograd.grad(torch.stack(each).sum(), list(f.parameters()))
    for a, b in zip(by_all, by_each, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_samples_that_stand_still_have_a_gradient_of_zero() -> None:
    u = normal(2, 3).requires_grad_()
    values = plr.local_error(lambda t, u: u * torch.tensor([[0.0], [1.0]]).to(u), u, torch.zeros(2), 0.5)
    (by_u,) = torch.autograd.grad(values.sum(), u)
    assert float(values[0].detach()) == 0
    assert not by_u[0].any()
    assert by_u[1].isfinite().all()


@pytest.mark.parametrize("kind", [tuple, dict])
def test_states_of_several_tensors(kind: type) -> None:
    """One error norm over all elements."""
    f, u = Net(3), normal(5, 3)
    keys = ["a", "b"]

    def pack(u: torch.Tensor) -> Any:
        return (u[:2], u[2:]) if kind is tuple else dict(zip(keys, (u[:2], u[2:]), strict=True))

    def parts(t: torch.Tensor, state: Any) -> Any:
        return pack(f(t, torch.cat(list(state.values()) if kind is dict else list(state))))

    ours = plr.local_error(parts, pack(u), 0.4, 0.3)
    right = plr.local_error(f, u, 0.4, 0.3)
    torch.testing.assert_close(ours, right, rtol=1e-10, atol=0)
    for a, b in zip(*(torch.autograd.grad(x, list(f.parameters())) for x in (ours, right)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("noise", "shape"), [("diagonal", (5, 3)), ("scalar", (5, 1))])
def test_a_step_of_an_sde(noise: Any, shape: tuple[int, ...]) -> None:
    """The estimate is that of `NeuralSDE`'s step along the same noise."""
    f, g, u = Net(3), Net(3, seed=1), normal(5, 3)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {
            "diffusion": g,
            "noise": noise,
            "abstol": 1.0,
            "reltol": 1.0,
            "generator": generator,
        }
        return plr.local_error(f, u, 0.25, 0.125, **options)

    ours = draw(0)
    assert torch.equal(ours, draw(0))
    assert not torch.equal(ours, draw(1))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    path = plr.BrownianPath(0.25, shape, seed=seed, dtype=torch.float64)
    solved = plr.NeuralSDE(
        f, g, (0.25, 0.375), noise=noise, abstol=1.0, reltol=1.0, dt=0.125, engine="torch"
    )(u, noise=path)
    assert float(ours.detach()) == pytest.approx(float(solved.steps.EEst[0]) * 0.125, rel=1e-10)
    assert all(p.any() for p in torch.autograd.grad(ours, [*f.parameters(), *g.parameters()]))


def test_what_a_step_can_not_be_is_refused() -> None:
    f, u = Net(3), normal(5, 3)
    with pytest.raises(plr.errors.TimeSpanError, match="noise is solved along time"):
        plr.local_error(f, u, 0.2, -0.1, diffusion=f)
    with pytest.raises(plr.errors.OptionError, match="solves SDEs"):
        plr.local_error(f, u, 0.2, 0.1, solver="SOSRI2")
    with pytest.raises(plr.errors.OptionError, match="give numbers for states of several tensors"):
        plr.local_error(f, (u, u), torch.zeros(5), 0.1)
    with pytest.raises(plr.errors.OptionError, match="explicit solver"):
        plr.local_error(f, u, torch.zeros(5), 0.1, solver="Rodas5P")
    with pytest.raises(plr.errors.ShapeError, match="give a number or 5"):
        plr.local_error(f, u, torch.zeros(4), 0.1)
    with pytest.raises(plr.errors.TimeSpanError, match="no dt 0"):
        plr.local_error(f, u, torch.zeros(5), torch.tensor([0.1, 0.1, 0.0, 0.1, 0.1]))
    with pytest.raises(plr.errors.NonFiniteError):
        plr.local_error(lambda t, u: u / t[:, None], u, torch.zeros(5), 0.1)
