"""The regularizer in JAX: the numbers of the torch one, under JAX's transformations, beside diffrax."""

from itertools import pairwise
from typing import Any

import pytest
import torch

import pylocalreg as plr
from tests.conftest import Net, normal

jax = pytest.importorskip("jax", reason="jax is not installed: pip install 'pylocalreg[jax]'")
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402

from pylocalreg import jax as plj  # noqa: E402

NET, U = Net(3), normal(5, 3)
PARAMS = {name: jnp.asarray(p.detach().numpy()) for name, p in NET.named_parameters()}


def field(t: Any, u: Any, p: Any) -> Any:
    """`Net` in JAX."""
    return jnp.tanh(u @ p["w1"] + p["b1"]) @ p["w2"] + p["c"] * jnp.sin(2 * t) - 0.3 * u


@pytest.mark.parametrize("solver", ["BS3", "DP5", "Tsit5", "Vern7"])
@pytest.mark.parametrize("gradient", ["exact", "frozen"])
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("dt", [1.5, -1.2])
def test_values_and_gradients_are_torchs(solver: str, gradient: Any, scale: Any, dt: float) -> None:
    """A long step: an estimate is a small rest of large terms, and a short one's last digits are rounding."""
    options: dict[str, Any] = {
        "abstol": 1e-3,
        "reltol": 1e-2,
        "solver": solver,
        "gradient": gradient,
        "scale": scale,
    }
    u = U.clone().requires_grad_()
    right = plr.local_error(NET, u, 0.4, dt, **options)
    by_torch = torch.autograd.grad(right, [u, *NET.parameters()])

    def value(u: Any, p: Any) -> Any:
        return plj.local_error(field, u, 0.4, dt, p, **options)

    ours, (by_u, by_p) = jax.jit(jax.value_and_grad(value, (0, 1)))(jnp.asarray(U.numpy()), PARAMS)
    assert float(ours) == pytest.approx(float(right.detach()), rel=1e-10)
    for a, b in zip(by_torch, [by_u, *(by_p[name] for name, _ in NET.named_parameters())], strict=True):
        b = torch.tensor(b.tolist(), dtype=torch.float64)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(a.abs().max()))


def test_vmap_is_torchs_step_for_each_sample() -> None:
    t, dt = normal(5, seed=1).abs(), 0.1 + normal(5, seed=2).abs()
    right = plr.local_error(lambda t, u: NET(t[:, None], u), U, t, dt, abstol=1e-3, reltol=1e-2)

    def one(u: Any, t: Any, dt: Any) -> Any:
        return plj.local_error(field, u, t, dt, PARAMS, abstol=1e-3, reltol=1e-2)

    ours = jax.vmap(one)(*(jnp.asarray(x.numpy()) for x in (U, t, dt)))
    torch.testing.assert_close(torch.tensor(ours.tolist(), dtype=torch.float64), right, rtol=1e-10, atol=0)


def test_states_of_several_arrays() -> None:
    u = {"a": jnp.asarray(U.numpy()), "b": jnp.ones(2)}

    def parts(t: Any, u: Any, p: Any) -> Any:
        return {"a": field(t, u["a"], p), "b": -u["b"] * jnp.cos(t)}

    def torch_parts(t: torch.Tensor, u: Any) -> Any:
        return {"a": NET(t, u["a"]), "b": -u["b"] * torch.cos(t)}

    ours = plj.local_error(parts, u, 0.1, 0.4, PARAMS)
    right = plr.local_error(torch_parts, {"a": U, "b": torch.ones(2, dtype=torch.float64)}, 0.1, 0.4)
    assert float(ours) == pytest.approx(float(right.detach()), rel=1e-10)


def test_constant_dynamics_have_a_gradient_of_zero() -> None:
    gradient = jax.grad(lambda c: plj.local_error(lambda t, u, _: c + 0 * u, jnp.zeros(3), 0.0, 0.1))(0.0)
    assert float(gradient) == 0


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(plr.errors.OptionError, match="'Rodas5P' has no error estimate in JAX"):
        plj.local_error(field, jnp.ones(3), 0.0, 0.1, PARAMS, solver="Rodas5P")
    with pytest.raises(plr.errors.ToleranceError):
        plj.local_error(field, jnp.ones(3), 0.0, 0.1, PARAMS, abstol=0.0)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_the_step_is_the_one_diffrax_took(span: tuple[float, float]) -> None:
    diffrax = pytest.importorskip("diffrax", reason="diffrax is not installed")
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        *span,
        None,
        jnp.asarray(U.numpy()),
        PARAMS,
        saveat=diffrax.SaveAt(t0=True, steps=True),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        max_steps=64,
    )
    times = [t for t in solution.ts.tolist() if abs(t) < float("inf")]
    assert len(times) > 4
    record = plr.StepRecord(solution.ts)
    assert len(record) == len(times) - 1
    for a, b in pairwise(times):
        for tau in ((a + b) / 2, b):
            assert float(jax.jit(plj.dt_at)(solution.ts, tau)) == pytest.approx(b - a, rel=1e-12)
            assert record.dt_at(tau) == pytest.approx(b - a, rel=1e-12)
    assert float(plj.dt_at(solution.ts, times[0])) == record.dt_at(times[0])
