"""``compile=True`` on the CPU: steps compiled by ``torch.compile``, once for all solves."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import pylocalreg as plr
from pylocalreg.engines.torch_engine import inductor
from pylocalreg.engines.torch_engine.functional import Tensors
from tests.conftest import Net, normal
from tests.test_captured import Branching, Scaled, assert_same

UNIQUE = "unique_graphs"

pytestmark = pytest.mark.skipif(inductor.unfit() is not None, reason=str(inductor.unfit()))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All but the kernels that inductor writes, which take seconds each: what is traced runs as it is."""
    monkeypatch.setattr(inductor, "BACKEND", lambda graph, examples: graph.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def pair(dynamics: object = None, **options: Any) -> tuple[plr.NeuralODE, plr.NeuralODE]:
    """Two nodes of the same dynamics, the second compiled."""
    field = Net(3) if dynamics is None else dynamics
    options = {"solver": "BS3", **options}
    one, other = (plr.NeuralODE(field, engine="torch", compile=c, **options) for c in (False, True))  # type: ignore[arg-type]
    return one, other


def graphs() -> int:
    """How often something was compiled."""
    return torch._dynamo.utils.counters["stats"][UNIQUE]  # type: ignore[attr-defined, no-any-return]


def test_one_step_by_inductor() -> None:
    layers = plr.TimeDependent(plr.Dense(3, 4, "tanh"), plr.Dense(4, 3))
    one, other = pair(plr.NeuralODE(layers, engine="torch").double().dynamics)
    assert_same(one, other, normal(4, 3))


def test_inductor_reads_views_that_are_negated() -> None:
    graph, u = torch.fx.symbolic_trace(lambda u, v: (u * 2 + v,)), normal(4, 3)
    whole, strided = torch._neg_view(normal(3)), torch.complex(normal(3), normal(3)).conj().imag
    for example, v in ((normal(3), whole), (whole, whole), (strided, strided)):
        compiled = inductor.inductor(graph, [u, example])
        torch.testing.assert_close(compiled(u, v)[0], u * 2 + v)


class Weighted:
    def sum(self, a: torch.Tensor, b: torch.Tensor) -> Tensors:
        return (a + 2 * b,)


def test_a_tensor_that_is_given_twice(traced: None) -> None:
    a, b = normal(3, seed=0), normal(3, seed=1)
    summed = inductor.InOneSolve(inductor.fused("sum"), Weighted())
    for first, second in ((a, a), (a, b), (b, a), (b, b)):
        torch.testing.assert_close(summed(first, second)[0], first + 2 * second)


def test_compiled_once_for_all_solves(traced: None) -> None:
    one, other = pair()
    assert_same(one, other, normal(4, 3))
    compiled = graphs()
    for shape, tolerance in (((5, 3), 1e-6), ((2, 6, 3), 1e-5)):
        for node in (one, other):
            node.abstol = node.reltol = tolerance
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1.1)
        assert_same(one, other, normal(*shape))
    assert graphs() - compiled <= 2  # at most once more for another number of dimensions


@pytest.mark.parametrize(
    "options",
    [
        {"regularizer": plr.LocalRegularizer("biased", generator=torch.Generator())},
        {"saveat": [0.0, 0.3, 0.35, 1.0]},
        {"dt": 1.0, "abstol": 1e-7, "reltol": 1e-7},
        {"adjoint": "interpolating"},
        {"tstops": [0.4]},
    ],
)
def test_as_uncompiled(traced: None, options: dict[str, Any]) -> None:
    assert_same(*pair(**options), normal(4, 3))


def test_what_the_dynamics_hold_is_looked_at_once_a_solve(
    traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    look = inductor.InOneSolve._looked_at

    def counted(self: inductor.InOneSolve, tensors: Tensors) -> Tensors:
        nonlocal looked
        looked += 1
        return look(self, tensors)

    monkeypatch.setattr(inductor.InOneSolve, "_looked_at", counted)
    field = Scaled(3)
    one, other = pair(field)
    for scale in (1.0, 0.5):
        field.scale = scale
        assert assert_same(one, other, normal(4, 3)).naccept > 2
    # of one solve; of its adjoint, and of a plain step's beside it where the function is new
    assert looked <= 2 * (1 + 1)


def test_a_state_that_is_laid_out_otherwise(traced: None) -> None:
    one, other = pair()
    assert_same(one, other, normal(3, 4).t())
    assert_same(one, other, normal(4, 6)[:, ::2])


class Keeping(Net):
    """Holds what it was called with last."""

    last: torch.Tensor | None = None

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.last = u
        return super().forward(t, u)


def test_what_a_module_stores_is_of_its_last_call(traced: None) -> None:
    field = Keeping(3)
    one, other = pair(field, solver="RK4", dt=0.25)
    with torch.no_grad():
        one(normal(4, 3))
        right = field.last
        other(normal(4, 3))
    assert right is not None
    assert field.last is not None
    torch.testing.assert_close(field.last, right, rtol=1e-12, atol=1e-12)


def test_small_products_are_sums_in_the_kernel_and_large_ones_are_left() -> None:
    a, b, c = normal(32, 2), normal(2, 50, seed=1), normal(50, seed=2)
    torch.testing.assert_close(inductor._mm(a, b), a @ b)
    torch.testing.assert_close(inductor._addmm(c, a, b), torch.addmm(c, a, b))
    assert inductor._mm(normal(128, 64), normal(64, 64)) is NotImplemented
    assert inductor._addmm(c, a, b, beta=2) is NotImplemented


def test_tanh_in_single_precision_is_a_quotient() -> None:
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-30, 38, 20_001)])
    given, right = inductor._tanh(x), torch.tanh(x.double())
    assert given.dtype is torch.float32
    assert float(given.abs().max()) <= 1
    ulp = torch.finfo(torch.float32).eps * torch.exp2(right.abs().log2().floor().clamp(min=-126))
    assert float(((given - right).abs() / ulp).max()) < 7
    special = inductor._tanh(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]))
    torch.testing.assert_close(
        special, torch.tensor([1.0, -1.0, torch.nan, 0.0]), equal_nan=True, rtol=0, atol=0
    )
    assert inductor._tanh(x.double()) is NotImplemented


def test_states_of_several_parts(traced: None) -> None:
    def f(t: torch.Tensor, u: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": u["v"], "v": -u["x"] * (1 + t)}

    u0 = {"x": normal(3), "v": normal(3, seed=1)}
    one, other = pair(f)
    right, u = one(u0).u, other(u0).u
    for name in u0:
        torch.testing.assert_close(u[name], right[name], rtol=1e-9, atol=1e-10)


def test_dynamics_that_can_not_be_traced_leave_the_sums(traced: None) -> None:
    one, other = pair(Branching(3))
    with pytest.warns(UserWarning, match="steps of BS3 runs uncompiled") as said:
        assert_same(one, other, normal(4, 3))
    assert sum("uncompiled" in str(warning.message) for warning in said) == 1
    assert other.compiled is not None
    assert len(list(other.compiled)) >= 4  # three sums and the norm


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(graph: object, inputs: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(inductor, "BACKEND", refused)
    one, other = pair()
    with pytest.warns(UserWarning, match="uncompiled") as said:
        assert_same(one, other, normal(4, 3))
    assert len(said) == 1


def test_a_compiler_that_fails_inside_a_transformed_function(monkeypatch: pytest.MonkeyPatch) -> None:
    class Checkpointed(Net):
        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            k: torch.Tensor = checkpoint(super().forward, t, u, use_reentrant=False)
            return k

    def failing(graph: object, inputs: object) -> None:
        torch._C._autograd._saved_tensors_hooks_disable("a transformed function takes none")
        raise RuntimeError("failed there")

    monkeypatch.setattr(inductor, "BACKEND", failing)
    one, other = pair(Checkpointed(3))
    with pytest.warns(UserWarning, match="uncompiled"):
        assert_same(one, other, normal(4, 3))


def test_a_torch_that_compiles_for_every_solve_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "COMPILES_ONCE", "99.0")
    one, other = pair()
    with pytest.warns(UserWarning, match=r"runs uncompiled: torch .* take torch 99\.0 or newer") as said:
        assert_same(one, other, normal(4, 3))
    assert len(said) == 1


def test_plr_compile_and_what_it_refuses(traced: None) -> None:
    one, _ = pair()
    other = plr.compile(copy.deepcopy(one))
    assert_same(one, other, normal(4, 3))
    assert pickle.loads(pickle.dumps(other)).compiled is not None
    with pytest.raises(plr.errors.OptionError, match="Tsit5"):
        plr.NeuralODE(Net(3), engine="torch", solver="AB3", compile=True)
    with pytest.raises(plr.errors.OptionError, match="NeuralODE"):
        plr.compile(Net(3))  # type: ignore[arg-type]
