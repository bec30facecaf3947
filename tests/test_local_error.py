"""The regularizer that stands alone."""

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
