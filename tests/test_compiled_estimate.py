"""``compile=True``: the estimate of a step taken anew, and its gradient by the parameters, in one call."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.explicit_rk import explicit_rk, one_call, step
from tests.conftest import Net, assert_close, normal
from tests.test_at_once import Evading, layers

pytestmark = pytest.mark.skipif(inductor.unfit() is not None, reason=str(inductor.unfit()))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Kernels run as they were traced; notes each estimate that is computed uncompiled."""
    monkeypatch.setattr(inductor, "BACKEND", lambda graph, examples: graph.forward)
    monkeypatch.setattr(one_call, "SMALL", 0)  # steps one by one are traced sooner
    noted, right = list[int](), step.estimate_of_step

    def noting(*args: Any) -> torch.Tensor:
        noted.append(1)
        return right(*args)

    monkeypatch.setattr(explicit_rk, "estimate_of_step", noting)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield noted


def regularization(field: torch.nn.Module, compile: bool, **options: Any) -> torch.Tensor:
    regularizer = plr.LocalRegularizer("unbiased", generator=torch.Generator().manual_seed(0), **options)
    node = plr.NeuralODE(field, engine="torch", regularizer=regularizer, compile=compile)
    value: torch.Tensor | None = node(normal(4, 3)).regularization
    assert value is not None
    return value


def gradients(value: torch.Tensor, field: torch.nn.Module) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(value, list(field.parameters()), allow_unused=True))


def assert_as_eager(field: torch.nn.Module, **options: Any) -> None:
    eager, compiled = (regularization(field, compile, **options) for compile in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-7, atol=1e-12)
    left, right = gradients(compiled, field), gradients(eager, field)
    assert [x is None for x in left] == [x is None for x in right]
    assert_close([x for x in left if x is not None], [x for x in right if x is not None], rtol=1e-6)


@pytest.mark.parametrize(("field", "gradient"), [(Net(3), "exact"), (Net(3), "frozen"), (layers(), "exact")])
def test_value_and_gradient(eager: list[int], field: torch.nn.Module, gradient: str) -> None:
    assert_as_eager(field, gradient=gradient)
    assert eager == [1]  # that of the uncompiled solve


def test_a_parameter_that_is_not_used_has_no_gradient(eager: list[int]) -> None:
    field = Net(3)
    field.register_parameter("a", torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    assert_as_eager(field)
    assert eager == [1]


def test_second_derivatives(eager: list[int]) -> None:
    field = Net(3)

    def second(compile: bool) -> list[torch.Tensor]:
        params = list(field.parameters())
        first = torch.autograd.grad(regularization(field, compile), params, create_graph=True)
        return list(torch.autograd.grad(torch.cat([x.flatten() for x in first]).square().sum(), params))

    assert_close(second(True), second(False), rtol=1e-6)
    assert eager == [1, 1]  # of the compiled one when its gradient is differentiated


def test_a_gradient_through_the_state_is_not_compiled(eager: list[int]) -> None:
    assert_as_eager(Net(3), through_state=True)
    assert eager == [1, 1]


def test_what_evades_substitution_is_found(eager: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert_as_eager(Evading(3))
    assert eager == [1, 1]
