"""torchdiffeq's calls beside torchdiffeq's own, and what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq

import pylocalreg as plr
from pylocalreg.integrations import torchdiffeq as ours
from tests.conftest import Net, normal

F64 = torch.float64
BOTH = pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])


def times(*t: float, wanted: bool = False) -> torch.Tensor:
    return torch.tensor(t, dtype=F64, requires_grad=wanted)


def solved(call: Callable[..., Any], f: Any, y0: Any, t: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The states, and the gradients of the sum of their squares by the start, times and parameters."""
    y = call(f, y0, t, rtol=1e-10, atol=1e-10, **options)
    parts = y if isinstance(y, tuple) else (y,)
    starts = y0 if isinstance(y0, tuple) else (y0,)
    loss = torch.stack([part.square().sum() for part in parts]).sum()
    return [*(part.detach() for part in parts), *torch.autograd.grad(loss, [*starts, t, *f.parameters()])]


def assert_near(a: list[torch.Tensor], b: list[torch.Tensor], first: float, rest: float = 1e-6) -> None:
    assert len(a) == len(b)
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=first)
    for x, y in zip(a[1:], b[1:], strict=True):
        torch.testing.assert_close(x, y, rtol=rest, atol=rest)


@BOTH
@pytest.mark.parametrize("t", [(0.0, 0.4, 1.5), (1.5, 0.4, 0.0), (0.0, 1.0)], ids=str)
def test_states_and_gradients_are_torchdiffeqs(name: str, t: tuple[float, ...]) -> None:
    """At a tight tolerance, to 1e-8."""
    f, y0 = Net(3), normal(5, 3).requires_grad_()
    a, b = (solved(getattr(library, name), f, y0, times(*t, wanted=True)) for library in (ours, torchdiffeq))
    assert_near(a, b, first=1e-8)


class Parts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(3)

    def forward(self, t: torch.Tensor, y: Any) -> Any:
        return self.net(t, y[0]), y[0].sum() - y[1]


@BOTH
def test_tuple_states(name: str) -> None:
    f, y0 = Parts(), (normal(5, 3).requires_grad_(), normal(seed=1).requires_grad_())
    t = times(0.0, 0.4, 1.0, wanted=True)
    a, b = (solved(getattr(library, name), f, y0, t) for library in (ours, torchdiffeq))
    assert a[0].shape == (3, 5, 3)
    assert a[1].shape == (3,)
    assert_near(a, b, first=1e-8)


def test_seminorm_is_the_gradient_too() -> None:
    f, y0, t = Net(3), normal(5, 3).requires_grad_(), times(0.0, 0.4, 1.0, wanted=True)
    options: dict[str, Any] = {"adjoint_options": {"norm": "seminorm"}}
    a, b = (solved(library.odeint_adjoint, f, y0, t, **options) for library in (ours, torchdiffeq))
    assert_near(a, b, first=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_dtype_is_the_states(dtype: torch.dtype) -> None:
    f, y0 = Net(3).to(dtype), normal(5, 3, dtype=dtype)
    t = times(0.0, 0.3, 1.0, wanted=True)
    a, b = (library.odeint(f, y0, t, rtol=1e-4, atol=1e-4) for library in (ours, torchdiffeq))
    assert a.dtype == b.dtype == dtype
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    (by_t,) = torch.autograd.grad(a.sum(), t)
    assert by_t.dtype == F64


GRIDS: dict[str, dict[str, Any]] = {
    "of t": {},
    "of a size": {"step_size": 0.1},
    "made": {"grid_constructor": lambda f, y, t: torch.cat([t[:1], t[:1] * 0.5 + t[-1:] * 0.5, t[-1:]])},
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("t", [(0.0, 0.2, 0.6), (0.6, 0.0), (0.0, 0.2, 0.4, 0.6)], ids=str)
@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_fixed_steps_on_torchdiffeqs_grids(method: str, grid: str, t: tuple[float, ...]) -> None:
    f, y0 = Net(3), normal(5, 3)
    a, b = (
        library.odeint(f, y0, times(*t), method=method, options=GRIDS[grid])[-1]
        for library in (ours, torchdiffeq)
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["adaptive_heun", "fehlberg2", "bosh3", "dopri5"])
def test_adaptive_methods_come_as_near(method: str) -> None:
    f, y0, t = Net(3), normal(5, 3), times(0.0, 0.5, 1.0)
    right = torchdiffeq.odeint(f, y0, t, rtol=1e-10, atol=1e-10)
    errors = [
        float((library.odeint(f, y0, t, rtol=1e-5, atol=1e-5, method=method) - right).detach().abs().max())
        for library in (ours, torchdiffeq)
    ]
    assert errors[0] < 2 * errors[1]


@pytest.mark.parametrize(("method", "order"), [("heun2", 2), ("heun3", 3), ("RK4", 4)])
def test_the_order_of_fixed_steps(method: str, order: int) -> None:
    f, y0, t = Net(3), normal(5, 3), times(0.0, 1.0)
    right = ours.odeint(f, y0, t, rtol=1e-12, atol=1e-12)[-1].detach()
    errors = []
    for h in (0.1, 0.05):
        y = ours.odeint(f, y0, t, method=method, options={"step_size": h})[-1].detach()
        errors.append(float((y - right).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.5)


def jump(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -y if t < 0.5 else y + t


@pytest.mark.parametrize("option", ["jump_t", "step_t"])
@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0)])
def test_steps_end_at_jumps(option: str, t: tuple[float, float]) -> None:
    """Those outside of the span are none."""
    calls: list[float] = []

    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(float(t))
        return jump(t, y)

    y0, plain = normal(3), ours.odeint(f, normal(3), times(*t), rtol=1e-8, atol=1e-8)
    without, calls[:] = len(calls), []
    options = {option: times(0.5, 7.0)}
    stopped = ours.odeint(f, y0, times(*t), rtol=1e-8, atol=1e-8, options=options)
    assert len(calls) < without
    torch.testing.assert_close(plain, stopped, rtol=1e-6, atol=1e-6)


def test_step_options_have_torchdiffeqs_names() -> None:
    f, y0, t = Net(3), normal(5, 3), times(0.0, 1.0)
    f.calls = 0  # type: ignore[assignment]

    def counted(options: dict[str, Any]) -> int:
        calls = 0

        def counting(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return f(t, y)  # type: ignore[no-any-return]

        ours.odeint(counting, y0, t, rtol=1e-5, atol=1e-5, options=options)
        return calls

    usual = counted({"max_step": float("inf"), "perturb": False, "min_step": 0})
    assert counted({}) == usual
    assert counted({"max_step": 0.02}) > 300
    assert counted({"first_step": 1e-6}) != usual
    assert counted({"safety": 0.3}) > usual
    assert counted({"first_step": 1e-3, "ifactor": 1.01}) > usual
    with pytest.raises(plr.errors.StepLimitError):
        counted({"max_num_steps": 2})


def test_atol_of_each_element() -> None:
    """As torchdiffeq: an element of loose tolerance takes no steps for itself."""

    class Wave(torch.nn.Module):
        nfe = 0

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.nfe += 1
            return torch.stack([torch.sin(40 * t), -y[1], -y[2]])

    f, y0, t = Wave(), torch.ones(3, dtype=F64), times(0.0, 1.0)
    right = ours.odeint(f, y0, t, rtol=1e-11, atol=1e-11)[-1]
    nfe, errors = {}, {}
    for name, atol in (("tight", 1e-8), ("loose", torch.tensor([1.0, 1e-8, 1e-8], dtype=F64))):
        f.nfe = 0
        y = ours.odeint(f, y0, t, rtol=1e-12, atol=atol)
        nfe[name], errors[name] = f.nfe, (y[-1] - right).abs()
    assert nfe["loose"] < nfe["tight"] / 3
    assert float(errors["loose"][1:].max()) < 1e-7
    parts = ours.odeint(
        lambda t, y: (f(t, torch.cat(y))[:1], f(t, torch.cat(y))[1:]),
        (y0[:1], y0[1:]),
        t,
        rtol=1e-12,
        atol=(1.0, 1e-8),
    )
    assert float((parts[1][-1] - right[1:]).abs().max()) < 1e-7


def fall(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.stack([y[1], -torch.ones_like(y[1])])


@pytest.mark.parametrize("reverse", [False, True])
@BOTH
def test_event_times_and_their_gradients(name: str, reverse: bool) -> None:
    answers = []
    for library in (ours, torchdiffeq):
        floor = torch.tensor(0.5, dtype=F64, requires_grad=True)
        y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
        options = {"adjoint_params": ()} if name == "odeint_adjoint" else {}
        t, y = library.odeint_event(
            fall,
            y0,
            torch.tensor(0.0, dtype=F64),
            event_fn=lambda t, y: y[0] - 0.5,
            reverse_time=reverse,
            odeint_interface=getattr(library, name),
            rtol=1e-9,
            atol=1e-9,
            **options,
        )
        assert y.shape == (2, 2)
        answers.append((t.detach(), y.detach(), *torch.autograd.grad(t + y[1, 1], y0)))
        assert floor.grad is None
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_an_event_is_where_the_first_of_several_crosses() -> None:
    y0, t = torch.tensor([1.0, 0.0], dtype=F64), times(0.0, 1.0)
    event_t, y = ours.odeint(fall, y0, t, event_fn=lambda t, y: torch.stack([y[0], 0.3 - t]))
    assert float(event_t) == pytest.approx(0.3, abs=1e-12)
    assert torch.equal(y[0], y0)
    with pytest.raises(plr.errors.TimeSpanError, match="crosses zero nowhere"):
        ours.odeint(lambda t, y: 0 * y, y0, t, event_fn=lambda t, y: y[0] + 1)


def test_the_first_state_alone() -> None:
    y0 = normal(5, 3)
    assert torch.equal(ours.odeint(Net(3), y0, times(0.3)), y0.unsqueeze(0))


@BOTH
def test_a_regularizer_gives_its_value_beside_the_states(name: str) -> None:
    f, y0, t = Net(3), normal(5, 3), times(0.0, 0.4, 1.0)

    def regularizer() -> plr.LocalRegularizer:
        return plr.LocalRegularizer("biased", generator=torch.Generator().manual_seed(0))

    y, R = getattr(ours, name)(f, y0, t, method="tsit5", regularizer=regularizer())
    adjoint: Any = "discrete" if name == "odeint" else "backsolve"
    node = plr.NeuralODE(
        f, (0.0, 1.0), abstol=1e-9, reltol=1e-7, saveat=[0.4, 1.0], regularizer=regularizer(), adjoint=adjoint
    )  # type: ignore[arg-type]
    solution = node(y0)
    assert torch.equal(y[1:], solution.u)
    assert torch.equal(R, solution.regularization)
    by = [torch.autograd.grad(x, list(f.parameters())) for x in (R, solution.regularization)]
    for a, b in zip(*by, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    event_t, _, R = ours.odeint(
        fall, y0[:2, 0], t[:2], event_fn=lambda t, y: y[0] + 5, regularizer=regularizer()
    )
    assert R.shape == event_t.shape == ()


def test_a_model_with_one_line_changed_takes_half_the_evaluations() -> None:
    """Trained with torchdiffeq's import, and with this one and a regularizer."""
    x = normal(64, 2)
    target = torch.sin(4 * x)
    nfe = {}
    for name, odeint in (("theirs", torchdiffeq.odeint), ("ours", ours.odeint)):
        f, calls = Net(2, hidden=32), 0
        f.register_forward_hook(lambda *_: None)
        optimizer = torch.optim.Adam(f.parameters(), lr=0.03)
        generator = torch.Generator().manual_seed(0)
        given: dict[str, Any] = {}
        if name == "ours":
            given = {"regularizer": plr.LocalRegularizer("biased", generator=generator)}
        for _ in range(60):
            y = odeint(f, x, times(0.0, 1.0), rtol=1e-6, atol=1e-6, **given)
            y, R = y if given else (y, 0.0)
            loss = (y[-1] - target).square().mean() + R
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def counted(t: torch.Tensor, y: torch.Tensor, f: Net = f) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return f(t, y)  # type: ignore[no-any-return]

        with torch.no_grad():
            odeint(counted, x, times(0.0, 1.0), rtol=1e-6, atol=1e-6)
        nfe[name] = calls
    assert nfe["ours"] <= nfe["theirs"] / 2


def custom_norm(y: torch.Tensor) -> torch.Tensor:
    return y.abs().max()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "dopri8"}, "method = 'dopri8' is not served here: method='Vern7'"),
        ({"method": "scipy_solver"}, "'scipy_solver' is not served"),
        ({"method": "halfway"}, "'halfway' is not served here: choose one of"),
        ({"options": {"norm": custom_norm}}, "option norm = .* is not served"),
        ({"options": {"min_step": 0.1}}, "option min_step"),
        ({"options": {"perturb": True}, "method": "rk4"}, "option perturb"),
        ({"options": {"dtype": torch.float32}}, "option dtype"),
        ({"options": {"stepsize": 0.1}}, "option 'stepsize' is unknown"),
        ({"options": {"step_size": 0.1}}, "option 'step_size' is unknown"),
        ({"options": {"interp": "linear"}, "method": "rk4"}, "interp = 'linear'"),
        ({"rtol": torch.tensor([1e-3, 1e-4])}, "rtol = .* is not served"),
        ({"method": "rk4", "regularizer": plr.LocalRegularizer()}, "rk4"),
    ],
)
def test_what_is_not_served_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(plr.errors.OptionError, match=said):
        ours.odeint(Net(2), normal(5, 2), times(0.0, 1.0), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adjoint_rtol": 1e-3}, "adjoint_rtol = 0.001"),
        ({"adjoint_method": "bosh3"}, "adjoint_method = 'bosh3'"),
        ({"adjoint_options": {"norm": custom_norm}}, "only 'seminorm' is served"),
        ({"adjoint_options": {"first_step": 0.1}}, "adjoint_options has first_step"),
    ],
)
def test_adjoints_of_another_kind_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(plr.errors.OptionError, match=said):
        ours.odeint_adjoint(Net(2), normal(5, 2), times(0.0, 1.0), **options)


def test_callbacks_and_complex_states_are_refused() -> None:
    f = Net(2)
    f.callback_step = lambda *_: None  # type: ignore[assignment]
    with pytest.raises(plr.errors.OptionError, match="callback_step"):
        ours.odeint(f, normal(5, 2), times(0.0, 1.0))
    with pytest.raises(plr.errors.DtypeError, match="complex"):
        ours.odeint(Net(2), normal(5, 2).to(torch.complex128), times(0.0, 1.0))
