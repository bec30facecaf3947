"""Every bad input is its own typed error, with the numbers; afterwards the module solves on."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg import checks, errors
from pylocalreg.errors import (
    DeviceError,
    DtypeError,
    EngineUnavailableError,
    LocalRegError,
    NonFiniteError,
    OptionError,
    SaveAtError,
    ShapeError,
    StepLimitError,
    StepUnderflowError,
    TimeSpanError,
    ToleranceError,
)
from tests.julia import ENGINES, REASON, without_julia

F64 = torch.float64


def decay(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u


def solver(f: Any = decay, **options: Any) -> plr.NeuralODE:
    options.setdefault("engine", "torch")
    return plr.NeuralODE(f, **options)


def assert_solves(node: plr.NeuralODE, dtype: torch.dtype = F64) -> None:
    u = node(torch.ones(2, 3, dtype=dtype)).u
    assert u.dtype == dtype
    assert torch.isfinite(u).all()
    assert (u < 1).all()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ShapeError, ValueError),
        (DtypeError, TypeError),
        (DeviceError, ValueError),
        (ToleranceError, ValueError),
        (TimeSpanError, ValueError),
        (SaveAtError, ValueError),
        (OptionError, ValueError),
        (NonFiniteError, ArithmeticError),
        (StepUnderflowError, ArithmeticError),
        (StepLimitError, RuntimeError),
        (errors.ChangedError, RuntimeError),
        (errors.DoubleBackwardError, RuntimeError),
        (errors.JacobianError, RuntimeError),
        (EngineUnavailableError, RuntimeError),
        (errors.ConfigError, ValueError),
        (errors.DataError, OSError),
    ],
)
def test_family(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, LocalRegError)
    assert issubclass(error, builtin)
    assert error.__doc__


def test_family_is_complete() -> None:
    defined = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    assert len(defined) == 22
    assert plr.LocalRegError is LocalRegError


# -- the state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("u0", "error", "message"),
    [
        (torch.zeros(0, 3), ShapeError, r"\(0, 3\)"),
        (torch.zeros(4, 0), ShapeError, r"\(4, 0\)"),
        (torch.zeros(0), ShapeError, r"\(0,\)"),
        ([1.0, 2.0], ShapeError, "list"),
        (np.ones(3), ShapeError, "ndarray"),
        (1.0, ShapeError, "float"),
        (torch.ones(2, 3, dtype=torch.int64), DtypeError, "int64"),
        (torch.ones(2, 3, dtype=torch.bool), DtypeError, "bool"),
        (torch.ones(2, 3, dtype=torch.complex64), DtypeError, "complex64"),
        (torch.ones(2, 3, dtype=torch.complex128), DtypeError, "complex128"),
        (torch.ones(2, 3, dtype=torch.float16), DtypeError, "float16"),
        (torch.ones(2, 3, dtype=torch.bfloat16), DtypeError, "bfloat16"),
    ],
)
def test_bad_state(u0: Any, error: type[Exception], message: str) -> None:
    node = solver()
    with pytest.raises(error, match=message):
        node(u0)
    with pytest.raises(error, match=message):
        plr.local_error(decay, u0, 0.0, 0.1)
    assert_solves(node)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("dt", [None, 0.1])
def test_state_that_is_not_finite(bad: float, dtype: torch.dtype, dt: float | None) -> None:
    u0 = torch.ones(2, 3, dtype=dtype)
    u0[1, 2] = bad
    u0[0, 1] = bad
    node = solver(dt=dt)
    with pytest.raises(NonFiniteError, match="2 NaN or infinite of 6"):
        node(u0)
    assert_solves(node, dtype)


# -- what the dynamics give ----------------------------------------------------------------------------


class Switch(torch.nn.Module):
    """Decay, until it is told to do something bad."""

    def __init__(self, bad: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.bad = bad
        self.on = True

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> Any:
        return self.bad(t, u) if self.on else -u


BAD_OUTPUTS: list[tuple[Callable[[torch.Tensor, torch.Tensor], Any], type[Exception], str]] = [
    (lambda t, u: u[:1], ShapeError, r"\(1, 3\).*\(2, 3\)"),
    (lambda t, u: u.sum(), ShapeError, r"\(\).*\(2, 3\)"),
    (lambda t, u: u.T, ShapeError, r"\(3, 2\).*\(2, 3\)"),
    (lambda t, u: u[None], ShapeError, r"\(1, 2, 3\).*\(2, 3\)"),
    (lambda t, u: None, ShapeError, "NoneType"),
    (lambda t, u: 1.0, ShapeError, "float"),
    (lambda t, u: (u, u), ShapeError, "tuple"),
    (lambda t, u: u.numpy(), ShapeError, "ndarray"),
    (lambda t, u: u.float(), DtypeError, "float32.*float64"),
    (lambda t, u: u.half(), DtypeError, "float16.*float64"),
    (lambda t, u: u + 0j, DtypeError, "complex128.*float64"),
    (lambda t, u: u.long(), DtypeError, "int64.*float64"),
    (lambda t, u: u.to("meta"), DeviceError, "meta.*cpu"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_OUTPUTS)
@pytest.mark.parametrize("dt", [None, 0.1])
def test_bad_output(
    bad: Callable[[torch.Tensor, torch.Tensor], Any],
    error: type[Exception],
    message: str,
    dt: float | None,
) -> None:
    f = Switch(bad)
    node = solver(f, dt=dt)
    with pytest.raises(error, match=message):
        node(torch.ones(2, 3, dtype=F64))
    with pytest.raises(error, match=message):
        plr.local_error(f, torch.ones(2, 3, dtype=F64), 0.0, 0.1)
    f.on = False
    assert_solves(node)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dt", [None, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dynamics_not_finite_at_the_start(bad: float, dt: float | None, dtype: torch.dtype) -> None:
    f = Switch(lambda t, u: torch.where(u > 1.5, u * bad, -u))
    node = solver(f, dt=dt)
    with pytest.raises(NonFiniteError, match=r"dynamics at t = 0.* 1 NaN or infinite of 2"):
        node(torch.tensor([1.0, 2.0], dtype=dtype))
    f.on = False
    assert_solves(node, dtype)


@pytest.mark.parametrize("tspan", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dynamics_that_become_nan_midway(tspan: tuple[float, float], bad: float, dtype: torch.dtype) -> None:
    late = 0.5 if tspan[0] < tspan[1] else -0.5
    f = Switch(lambda t, u: -u * (bad if t * (1 if late > 0 else -1) > late else 1.0))
    node = solver(f, tspan=tspan)
    with pytest.raises(NonFiniteError, match=r"t = 0\.[45]\d*.* \d+ accepted steps"):
        node(torch.ones(2, dtype=dtype))
    f.on = False
    assert torch.isfinite(node(torch.ones(2, dtype=dtype)).u).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
def test_blow_up(dtype: torch.dtype, adjoint: str) -> None:
    """u' = u^2 from 1 has its pole at t = 1."""
    f = Switch(lambda t, u: u * u)
    node = solver(f, tspan=(0.0, 2.0), adjoint=adjoint)
    with pytest.raises((NonFiniteError, StepUnderflowError), match=r"t = (1|0\.9999\d*|1\.0000\d*) "):
        node(torch.ones(2, 3, dtype=dtype, requires_grad=True))
    f.on = False
    assert_solves(node, dtype)


def test_exponential_overflow() -> None:
    with pytest.raises(NonFiniteError, match=r"t = \d+"):
        solver(lambda t, u: 100 * u, tspan=(0.0, 100.0))(torch.ones(2, dtype=F64))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver_name", ["Tsit5", "BS3", "Vern7", "VCAB3", "VCABM3", "Rosenbrock23", "Euler"])
@pytest.mark.parametrize(("dtype", "slope"), [(torch.float32, 1e38), (F64, 1e308)])
def test_state_that_overflows_with_an_estimate_of_zero(
    dtype: torch.dtype, slope: float, solver_name: str, engine: str
) -> None:
    """EEst is relative to the state: beside an infinite one every error is 0."""
    f = Switch(lambda t, u: torch.full_like(u, slope))
    options: dict[str, Any] = {"dt": 0.5} if solver_name == "Euler" else {}
    if solver_name == "Rosenbrock23":
        options["adjoint"] = "interpolating"
    node = solver(f, tspan=(0.0, 10.0), solver=solver_name, engine=engine, **options)
    with pytest.raises(NonFiniteError, match=r"t = [\d.]+"):
        node(torch.zeros(3, dtype=dtype))
    f.on = False
    assert torch.isfinite(node(torch.ones(2, 3, dtype=dtype)).u).all()


def test_step_underflow_at_a_jump() -> None:
    f = Switch(lambda t, u: torch.full_like(u, 1e20 if t > 0.5 else 0.0))
    node = solver(f, reltol=1e-9, abstol=1e-9)
    with pytest.raises(StepUnderflowError, match=r"dt = .*t = 0\.5 after \d+ accepted.*EEst = "):
        node(torch.ones(3, dtype=F64))
    f.on = False
    assert_solves(node)


def test_step_underflow_by_chatter() -> None:
    """No step is small enough for a sign that flips with the last digit of a large, fast state."""
    f = Switch(lambda t, u: 1e12 * torch.sign(torch.sin(1e18 * u)))
    node = solver(f, abstol=1e-10, reltol=1e-12, tspan=(1.0, 2.0))
    with pytest.raises(StepUnderflowError, match=r"t = 1 after \d+ accepted"):
        node(torch.tensor([0.3, 0.7], dtype=F64))
    f.on = False
    assert_solves(node)


def test_step_limit() -> None:
    f = Switch(lambda t, u: 50 * torch.cos(200 * t) + 0 * u)
    node = solver(f, maxiters=25)
    with pytest.raises(
        StepLimitError, match=r"maxiters = 25 steps \(\d+ accepted, \d+ rejected\).*t = 0\.\d"
    ):
        node(torch.ones(3, dtype=F64))
    f.on = False
    assert_solves(node)


def test_step_limit_is_exact() -> None:
    u0 = torch.ones(3, dtype=F64)
    stats = solver()(u0).stats
    tried = stats.naccept + stats.nreject
    assert solver(maxiters=tried)(u0).stats == stats
    with pytest.raises(StepLimitError, match=f"maxiters = {tried - 1} "):
        solver(maxiters=tried - 1)(u0)


def test_error_in_the_dynamics_passes_through() -> None:
    def broken(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        raise KeyError("mine")

    f = Switch(broken)
    node = solver(f)
    with pytest.raises(KeyError, match="mine"):
        node(torch.ones(2, dtype=F64))
    f.on = False
    assert_solves(node)


# -- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["abstol", "reltol"])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf, -math.inf])
def test_bad_tolerance(name: str, value: float) -> None:
    tolerance: dict[str, Any] = {name: value}
    with pytest.raises(ToleranceError, match=f"{name} = {value}"):
        solver(**tolerance)
    with pytest.raises(ToleranceError, match=f"{name} = {value}"):
        plr.local_error(decay, torch.ones(2), 0.0, 0.1, **tolerance)


@pytest.mark.parametrize("name", ["abstol", "reltol"])
@pytest.mark.parametrize("value", ["tight", None])
def test_tolerance_that_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(ToleranceError, match=f"{name} = {value!r}"):
        solver(**{name: value})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"abstol": 1e-300}, torch.float32, r"abstol = 1e-300.*from 0 in torch\.float32.*1\.2e-38"),
        ({"abstol": 1e300}, torch.float32, r"abstol = 1e\+300.*from infinity in torch\.float32.*1\.8e\+19"),
        ({"abstol": 1e300}, F64, r"abstol = 1e\+300.*from infinity in torch\.float64.*1\.3e\+154"),
        ({"reltol": 1e300}, F64, r"reltol = 1e\+300.*1\.3e\+154"),
        ({"abstol": 5e-324}, F64, r"abstol = 4\.94\d*e-324.*from 0.*2\.2e-308"),
    ],
)
def test_tolerance_that_the_dtype_does_not_hold(
    options: dict[str, Any], dtype: torch.dtype, message: str, engine: str
) -> None:
    calls = 0

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return -u

    with pytest.raises(ToleranceError, match=message):
        solver(f, engine=engine, **options)(torch.ones(2, dtype=dtype))
    assert calls == 0
    with pytest.raises(ToleranceError, match=message):
        plr.local_error(f, torch.ones(2, dtype=dtype), 0.0, 0.1, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_reltol_finer_than_the_dtype_is_taken_and_said_once(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """torchdiffeq's default, 1e-7, is finer than float32 resolves."""
    checks._say_unresolved.cache_clear()
    for _ in range(2):
        assert_solves(solver(abstol=1e-9, reltol=1e-7, engine=engine), torch.float32)
        assert_solves(solver(reltol=1e-17, engine=engine))
        assert_solves(solver(reltol=1e-7, engine=engine))
    assert [record.name for record in caplog.records] == ["pylocalreg"] * 2
    in_single, in_double = (record.getMessage() for record in caplog.records)
    assert "reltol = 1e-07 is finer than torch.float32 resolves (1.2e-07)" in in_single
    assert "torch.float64" in in_single
    assert "reltol = 1e-17 is finer than torch.float64 resolves (2.2e-16)" in in_double


@pytest.mark.parametrize(
    ("tspan", "message"),
    [
        ((1.0, 1.0), r"1\.0, 1\.0"),
        ((0.0, math.inf), "inf"),
        ((math.nan, 1.0), "nan"),
        ((0.0, 1.0, 2.0), r"2\.0"),
        ((0.0,), r"\(0\.0,\)"),
        (3.0, r"3\.0"),
        (None, "None"),
        (("a", "b"), "'a'"),
    ],
)
def test_bad_tspan(tspan: Any, message: str) -> None:
    with pytest.raises(TimeSpanError, match=message):
        solver(tspan=tspan)


def test_tspan_empty_in_float32() -> None:
    node = solver(tspan=(1.0, 1.0 + 1e-9))
    with pytest.raises(TimeSpanError, match=r"1\.0, 1\.0"):
        node(torch.ones(2))
    assert_solves(node, F64)


@pytest.mark.parametrize("dt", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_bad_dt(dt: float) -> None:
    with pytest.raises(TimeSpanError, match=f"dt = {dt} .*0\\.0, 1\\.0"):
        solver(dt=dt)


@pytest.mark.parametrize("dt", [0.0, 2.5, -2.5, math.nan])
def test_bad_dt_backwards(dt: float) -> None:
    with pytest.raises(TimeSpanError, match=f"dt = {dt} "):
        solver(tspan=(2.0, 0.0), dt=dt)


def test_dt_that_is_no_number() -> None:
    with pytest.raises(TimeSpanError, match="fast"):
        solver(dt="fast")


@pytest.mark.parametrize(
    ("saveat", "message"),
    [
        ([], "empty"),
        ([0.5, 1.5], r"1 times outside.*1\.5"),
        ([-0.1, 0.5, 2.0], r"2 times outside.*-0\.1"),
        ([0.5, 0.2], r"0\.5 to 0\.2"),
        ([0.2, math.nan], "nan"),
        (0.5, r"0\.5"),
        (["x"], "'x'"),
    ],
)
def test_bad_saveat(saveat: Any, message: str) -> None:
    with pytest.raises(SaveAtError, match=message):
        solver(saveat=saveat)
    node = solver()
    with pytest.raises(SaveAtError, match=message):
        node(torch.ones(2, 3, dtype=F64), saveat=saveat)
    assert_solves(node)


def test_saveat_runs_along_tspan() -> None:
    with pytest.raises(SaveAtError, match=r"0\.2 to 0\.5"):
        solver(tspan=(1.0, 0.0), saveat=[0.2, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", [list, np.array, lambda times: torch.tensor(times, dtype=F64)])
def test_saveat_with_times_that_meet(kind: Any, dtype: torch.dtype) -> None:
    """Two observations at one instant, and two that float32 does not tell apart."""
    times = [0.0, 0.25, 0.25, 0.5, 0.5 + 1e-10, 1.0, 1.0]
    solution = solver(saveat=kind(times))(torch.ones(2, dtype=dtype))
    assert solution.u.shape == (7, 2)
    assert list(solution.t) == pytest.approx(times)
    assert torch.equal(solution.u[1], solution.u[2])
    assert torch.equal(solution.u[5], solution.u[6])
    assert torch.equal(solution.u[3], solution.u[4]) == (dtype == torch.float32)
    apart = solver(saveat=sorted({*times}))(torch.ones(2, dtype=dtype))
    assert solution.stats == apart.stats


@pytest.mark.parametrize("maxiters", [0, -1, 1.5, True, "many"])
def test_bad_maxiters(maxiters: Any) -> None:
    with pytest.raises(OptionError, match=f"{maxiters!r}"):
        solver(maxiters=maxiters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "Euler99"}, "'Euler99'.*Tsit5"),
        ({"solver": "tsit5"}, "'tsit5'.*Tsit5"),
        ({"adjoint": "magic"}, "'magic'.*discrete.*interpolating"),
        ({"engine": "jax"}, "'jax'.*'auto', 'torch' or 'julia'"),
    ],
)
def test_unknown_option(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        solver(**options)


def test_callbacks_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"callback.*event="):
        solver(callback=lambda t, u: None)


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="tolerance"):
        solver(tolerance=1e-3)


@without_julia
def test_julia_is_not_there() -> None:
    with pytest.raises(EngineUnavailableError, match="julia"):
        solver(engine="julia")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "global"}, "sampling = 'global'.*unbiased.*biased"),
        ({"step": "fixed"}, "step = 'fixed'.*solver.*initial"),
        ({"gradient": "none"}, "gradient = 'none'.*exact.*frozen"),
    ],
)
def test_unknown_regularizer_option(options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plr.LocalRegularizer(**options)


def test_regularize_without_a_regularizer() -> None:
    node = solver()
    with pytest.raises(OptionError, match="regularize=True"):
        node(torch.ones(2, 3, dtype=F64), regularize=True)
    assert_solves(node)


def test_not_dense() -> None:
    solution = solver()(torch.ones(2))
    with pytest.raises(OptionError, match="dense=True"):
        solution(0.5)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_dense_outside(t: float) -> None:
    solution = solver()(torch.ones(2), dense=True)
    with pytest.raises(SaveAtError, match=f"t = {t} .*0\\.0, 1\\.0"):
        solution(t)


@pytest.mark.parametrize("dynamics", [3, "tanh", None, [torch.nn.Linear(2, 2)]])
def test_what_is_no_dynamics(dynamics: Any) -> None:
    with pytest.raises(OptionError, match="not a layer description, a module or a callable"):
        solver(dynamics)


def test_dropout_that_drops_nothing() -> None:
    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = torch.nn.Dropout(0.0)

        def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.dropout(-u)
            return out

    assert_solves(solver(Field()))


# -- devices -------------------------------------------------------------------------------------------


def test_parameters_elsewhere() -> None:
    node = solver(plr.Chain(plr.Dense(3, 3))).to("meta")
    with pytest.raises(DeviceError, match=r"\(12,\) is on meta, the state on cpu"):
        node(torch.ones(2, 3))


def test_closed_over_tensor_elsewhere() -> None:
    node = solver(params=[torch.ones(7, device="meta")])
    with pytest.raises(DeviceError, match=r"\(7,\) is on meta, the state on cpu"):
        node(torch.ones(2, 3))


# -- one step alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "dt"), [(0.0, 0.0), (0.0, math.nan), (math.inf, 0.1), (0.0, -math.inf)])
def test_local_error_bad_step(t: float, dt: float) -> None:
    with pytest.raises(TimeSpanError, match=f"t = {t} of size dt = {dt}"):
        plr.local_error(decay, torch.ones(2), t, dt)


def test_local_error_unknown_options() -> None:
    wrong: Any = "halfway"
    with pytest.raises(OptionError, match=r"'halfway'.*exact"):
        plr.local_error(decay, torch.ones(2), 0.0, 0.1, gradient=wrong)
    with pytest.raises(OptionError, match=r"'halfway'.*Tsit5"):
        plr.local_error(decay, torch.ones(2), 0.0, 0.1, solver="halfway")


# -- importing -----------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("use", ["", "node(torch.ones(2, 2)).u.sum().backward();"])
def test_import_starts_no_julia(use: str) -> None:
    code = (
        "import sys, torch, pylocalreg as plr;"
        "node = plr.NeuralODE(plr.Chain(plr.Dense(2, 2)), engine='torch');"
        f"{use}print(sorted(m for m in sys.modules if m.partition('.')[0] in ('juliacall', 'juliapkg')))"
    )
    assert run_python(code).strip() == "[]"


def test_auto_says_once_which_engine() -> None:
    code = (
        "import logging, torch, pylocalreg as plr;"
        "lines = [];"
        "handler = logging.Handler(); handler.emit = lambda record: lines.append(record.getMessage());"
        "logging.getLogger('pylocalreg').addHandler(handler);"
        "nodes = [plr.NeuralODE(lambda t, u: -u) for _ in range(3)];"
        "print(len(lines), nodes[0](torch.ones(1)).engine)"
    )
    assert run_python(code).split() == ["1", "julia" if REASON is None else "torch"]


SAMPLE: Sequence[str] = ("NeuralODE", "LocalRegularizer", "local_error", "TimeDependent", "Solution")


@pytest.mark.parametrize("name", SAMPLE)
def test_public_names(name: str) -> None:
    assert name in plr.__all__
    assert getattr(plr, name).__doc__
