"""Parameters and gradients of other kinds than the state, complex ones above all: by every adjoint."""

from typing import Any

import pytest
import torch

import pylocalreg as plr
from tests.conftest import assert_close, normal
from tests.julia import needs_julia


class Fourier(torch.nn.Module):
    """The complex one lies behind a real one of an odd number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(normal(5, seed=1))
        self.weight = torch.nn.Parameter(torch.complex(normal(3, seed=2), normal(3, seed=3)))
        self.unused = torch.nn.Parameter(torch.complex(normal(2), normal(2)))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.fft.irfft(torch.fft.rfft(u) * self.weight.conj(), n=5) + self.bias)


class Parts(torch.nn.Module):
    """The same with the complex parameters' parts as two real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fourier = Fourier()
        weight = self.fourier.weight.detach()
        self.real = torch.nn.Parameter(weight.real.clone())
        self.imag = torch.nn.Parameter(weight.imag.clone())

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        given = {"weight": torch.complex(self.real, self.imag)}
        k: torch.Tensor = torch.func.functional_call(self.fourier, given, (t, u))
        return k


def gradients(f: Fourier | Parts, loss: torch.Tensor, u0: torch.Tensor) -> list[torch.Tensor]:
    """By u0 and the bias, and by the weight in parts; they may be differentiated again."""
    if isinstance(f, Parts):
        return list(torch.autograd.grad(loss, (u0, f.fourier.bias, f.real, f.imag), create_graph=True))
    by_u0, by_bias, by_weight = torch.autograd.grad(loss, (u0, f.bias, f.weight), create_graph=True)
    assert by_weight.dtype is f.weight.dtype
    return [by_u0, by_bias, by_weight.real, by_weight.imag]


def found(f: Fourier | Parts, **options: Any) -> list[torch.Tensor]:
    """The state and its gradients."""
    u0 = normal(4, 5).requires_grad_()
    options = {"abstol": 1e-9, "reltol": 1e-9, **options}
    solution = plr.NeuralODE(f, **options)(u0)
    return [x.detach() for x in (solution.u, *gradients(f, solution.u.sin().sum(), u0))]


ADJOINTS: tuple[plr.Adjoint, ...] = ("discrete", "interpolating", "backsolve", "quadrature", "gauss")


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_by_every_adjoint(solver: str, adjoint: plr.Adjoint) -> None:
    options = {"engine": "torch", "solver": solver, "adjoint": adjoint}
    assert_close(found(Fourier(), **options), found(Parts(), **options), rtol=1e-7)


@needs_julia
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_on_the_julia_engine(adjoint: plr.Adjoint) -> None:
    ours = found(Fourier(), engine="julia", adjoint=adjoint)
    assert_close(ours, found(Parts(), engine="torch"), rtol=1e-7)


class Embedded(torch.nn.Module):
    """Sparse gradients, and a parameter of another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(normal(9, 5, dtype=torch.float32))
        self.scale = torch.nn.Parameter(normal(5))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.embedding(torch.tensor([1, 1, 4, 7]), self.table, sparse=True)
        return torch.tanh(u * self.scale + rows).to(u.dtype)


@pytest.mark.parametrize("engine", ["torch", pytest.param("julia", marks=needs_julia)])
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_of_other_layouts_and_dtypes(adjoint: plr.Adjoint, engine: str) -> None:
    def run(**options: Any) -> list[torch.Tensor]:
        f, u0 = Embedded(), normal(4, 5, dtype=torch.float32)
        u = plr.NeuralODE(f, abstol=1e-4, reltol=1e-4, **options)(u0).u
        by_table, by_scale = torch.autograd.grad(u.sin().sum(), (f.table, f.scale))
        return [by_table.to_dense(), by_scale]

    ours, right = run(engine=engine, adjoint=adjoint), run(engine="torch")
    assert [x.dtype for x in ours] == [torch.float32, torch.float64]
    for a, b in zip(ours, right, strict=True):
        assert_close([a], [b], rtol=1e-2)


def test_second_derivatives() -> None:
    def second(f: Fourier | Parts) -> list[torch.Tensor]:
        u0 = normal(4, 5).requires_grad_()
        first = gradients(f, plr.NeuralODE(f, engine="torch")(u0).u.sin().sum(), u0)
        penalty = torch.stack([x.square().sum() for x in first]).sum()
        return [x.detach() for x in gradients(f, penalty, u0)]

    assert_close(second(Fourier()), second(Parts()), rtol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"regularizer": lambda g: plr.LocalRegularizer("unbiased", generator=g)},
        {"regularizer": lambda g: plr.LocalRegularizer("biased", generator=g), "keep_stages": True},
        {"regularizer": lambda g: plr.LocalRegularizer("biased", generator=g), "adjoint": "gauss"},
        {"regularizer": lambda g: plr.GlobalRegularizer()},
    ],
)
def test_regularized(options: dict[str, Any]) -> None:
    def run(f: Fourier | Parts) -> list[torch.Tensor]:
        u0 = normal(4, 5).requires_grad_()
        regularizer = options["regularizer"](torch.Generator().manual_seed(0))
        solution = plr.NeuralODE(f, engine="torch", **{**options, "regularizer": regularizer})(u0)
        assert solution.regularization is not None
        return [x.detach() for x in gradients(f, solution.u.sin().sum() + solution.regularization, u0)]

    assert_close(run(Fourier()), run(Parts()), rtol=1e-7)


def test_of_another_precision_than_the_state() -> None:
    f = torch.nn.ParameterList([Fourier().weight])
    with pytest.raises(plr.errors.DtypeError, match=r"of torch\.complex128, the state is of torch\.float32"):
        plr.NeuralODE(lambda t, u: f[0].real[:1] * u, engine="torch")(torch.ones(1))


def test_of_single_precision() -> None:
    u0 = normal(4, 5, dtype=torch.float32).requires_grad_()
    f = Fourier().float()
    for p in (f.weight, f.unused):
        p.data = p.data.to(torch.complex64)
    found = [
        torch.autograd.grad(plr.NeuralODE(f, engine="torch", adjoint=adjoint)(u0).u.sin().sum(), f.weight)[0]
        for adjoint in ADJOINTS[:2]
    ]
    assert found[1].dtype is torch.complex64
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
