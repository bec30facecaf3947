"""What `plr.julia` takes and refuses, and what the embedded engine refuses of it: no Julia is started."""

import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.algorithm import Algorithm, Sensitivity
from pylocalreg.engines.julia_engine.failures import refusing
from pylocalreg.engines.packages import OWNERS, PACKAGES
from pylocalreg.errors import OptionError


def field(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return -u


def node(**options: Any) -> plr.NeuralODE:
    return plr.NeuralODE(field, **({"engine": "torch"} | options))


def test_an_algorithm_is_a_name_with_rows() -> None:
    made = plr.julia.algorithm("KenCarp4", autodiff="finite", smooth_est=False)
    assert made == "KenCarp4(autodiff=finite, smooth_est=False)"
    kind, name, package, uuid, positional, keywords = made.row
    assert (kind, name, package, positional) == ("name", "KenCarp4", "OrdinaryDiffEqSDIRK", ())
    assert uuid == PACKAGES[package].uuid
    assert dict(keywords)["smooth_est"] is False
    assert dict(keywords)["autodiff"][1:3] == ("AutoFiniteDiff", "ADTypes")


def test_algorithms_nest_and_survive_a_pickle() -> None:
    made = plr.julia.algorithm("AutoTsit5", plr.julia.algorithm("Rosenbrock23"))
    assert made == "AutoTsit5(Rosenbrock23)"
    again = pickle.loads(pickle.dumps(made))
    assert (again, again.row, type(again)) == (made, made.row, Algorithm)


def test_without_arguments_it_is_the_name() -> None:
    assert plr.julia.algorithm("Tsit5") == "Tsit5"
    assert node(solver=plr.julia.algorithm("Tsit5")).solver == "Tsit5"


def test_code_is_never_taken_for_a_name() -> None:
    assert plr.julia.algorithm(code="Tsit5").row == ("code", "Tsit5")
    assert plr.julia.algorithm(code="Tsit5") != "Tsit5"


WRONG: dict[str, tuple[Any, str]] = {
    "code as a name": (lambda: plr.julia.algorithm("AutoTsit5(Rodas5P())"), "code="),
    "a statement as a name": (lambda: plr.julia.algorithm("run(`ls`)"), "letters"),
    "no name": (lambda: plr.julia.algorithm(), "give an algorithm's name"),
    "a number": (lambda: plr.julia.algorithm(3), "give an algorithm's name"),
    "code and a name": (lambda: plr.julia.algorithm("Tsit5", code="Tsit5()"), "nothing beside it"),
    "code, a number": (
        lambda: plr.julia.algorithm(code=3),  # type: ignore[arg-type]
        "as a string",
    ),
    "autodiff": (lambda: plr.julia.algorithm("KenCarp4", autodiff="both"), "finite"),
    "a string": (lambda: plr.julia.algorithm("KenCarp4", linsolve="KLU"), "takes no string"),
    "a name's choice": (lambda: plr.julia.algorithm("AitkenNeville", sequence="even"), "harmonic"),
    "a solver as a string": (lambda: plr.julia.algorithm("AutoTsit5", "Rodas5P"), "algorithm('Rodas5P')"),
    "a list": (lambda: plr.julia.algorithm("KenCarp4", x=[1]), "give a number"),
    "nan": (lambda: plr.julia.algorithm("KenCarp4", x=float("nan")), "give a number"),
    "adjoint": (lambda: plr.julia.adjoint("ZygoteAdjoint"), "adjoint='discrete'"),
    "adjoint, a list": (lambda: plr.julia.adjoint(["GaussAdjoint"]), "choose one of"),  # type: ignore[arg-type]
    "Enzyme": (lambda: plr.julia.adjoint("GaussAdjoint", autojacvec="EnzymeVJP"), "Enzyme"),
    "vjp": (lambda: plr.julia.adjoint("GaussAdjoint", autojacvec="TorchVJP"), "ZygoteVJP"),
    "adjoint's string": (lambda: plr.julia.adjoint("GaussAdjoint", checkpointing="yes"), "takes no string"),
    "adjoint's list": (lambda: plr.julia.adjoint("GaussAdjoint", checkpointing=[1]), "give a number"),
    "embedded solver": (lambda: node(solver="KenCarp4"), "engine='julia'"),
    "embedded algorithm": (
        lambda: node(solver=plr.julia.algorithm("KenCarp4", autodiff="finite")),
        "engine='julia'",
    ),
    "embedded adjoint": (lambda: node(adjoint=plr.julia.adjoint("GaussAdjoint")), "embedded engine"),
    "embedded options": (lambda: node(solve_options={"force_dtmin": True}), "force_dtmin"),
    "options, a list": (lambda: node(solve_options=[1]), "give a dict"),
    "own option": (lambda: node(solve_options={"dtmax": 0.1}), "dtmax="),
    "kept option": (lambda: node(solve_options={"save_everystep": True}), "adjoint needs"),
    "kept limiter": (lambda: node(solve_options={"step_limiter": 1}), "the algorithm's own argument"),
    "kept stage limiter": (lambda: node(solve_options={"stage_limiter": 1}), "by code"),
    "kept callback": (lambda: node(solve_options={"callback": 1}), "pylocalreg's"),
    "option's value": (lambda: node(solve_options={"d_discontinuities": "soon"}), "sequence of numbers"),
    "option's value, none": (lambda: node(solve_options={"force_dtmin": None}), "give a number"),
    "estimator": (lambda: node(regularizer=plr.LocalRegularizer(estimator="Tsit6")), "estimator = 'Tsit6'"),
    "estimator without one": (lambda: node(regularizer=plr.LocalRegularizer(estimator="RK4")), "RK4"),
    "estimator of SDEs": (lambda: node(regularizer=plr.LocalRegularizer(estimator="SOSRI")), "SDE"),
    "estimator, importance": (
        lambda: plr.LocalRegularizer("biased", importance="uniform", estimator="Tsit5"),
        "estimator",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    make, says = WRONG[name]
    with pytest.raises(OptionError) as error:
        make()
    assert says in str(error.value)


class FakeJulia:
    """A Julia that refuses."""

    class JuliaError(Exception):
        exception = None

    def __init__(self, failure: Any) -> None:
        self.juliacall, self.failure = SimpleNamespace(JuliaError=self.JuliaError), failure

    def call(self, name: str, *args: Any) -> Any:
        assert name == "failure"
        return self.failure


def test_a_missing_package_is_named() -> None:
    julia: Any = FakeJulia(("stack", "it is of the Julia package X, which is not there", "X"))
    says = r"solver 'Y': it is of .* install-julia --add X"
    with pytest.raises(OptionError, match=says), refusing(julia, "solver 'Y'"):
        raise FakeJulia.JuliaError


def test_other_failures_are_not_refusals() -> None:
    julia: Any = FakeJulia(None)
    with pytest.raises(FakeJulia.JuliaError), refusing(julia, "solver 'Y'"):
        raise FakeJulia.JuliaError


def test_names_have_one_owner() -> None:
    names = [name for package in PACKAGES.values() for name in package.names.split()]
    assert len(names) == len(set(names)) == len(OWNERS)


def test_adjoints_are_named() -> None:
    made = plr.julia.adjoint("GaussAdjoint", checkpointing=True)
    assert isinstance(made, Sensitivity)
    assert made.name == "GaussAdjoint"
    assert made == "GaussAdjoint(checkpointing=True, autojacvec=ZygoteVJP)"


def test_import_starts_no_julia() -> None:
    code = "import sys, pylocalreg; pylocalreg.julia.algorithm('KenCarp4'); print('juliacall' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("sampling", ["biased", "unbiased"])
@pytest.mark.parametrize("solver", ["Rodas5P", "RK4", "VCABM3"])
def test_the_estimator_is_another_methods_step(solver: str, sampling: plr.Sampling) -> None:
    """On the embedded engine: the value is Tsit5's at the same (tau, u, dt)."""
    fixed: dict[str, Any] = {"dt": 0.1} if solver == "RK4" else {}
    values = []
    for estimator in ("Tsit5", "BS3"):
        regularizer = plr.LocalRegularizer(
            sampling,
            estimator=estimator,
            generator=torch.Generator().manual_seed(5),
            scale="linear",
        )
        torch.manual_seed(0)
        f = torch.nn.Linear(3, 3).double()
        made = plr.NeuralODE(
            lambda t, u, f=f: torch.tanh(f(u)) * torch.sin(t + 1),
            solver=solver,
            engine="torch",
            regularizer=regularizer,
            params=list(f.parameters()),
            adjoint="discrete",
            **fixed,
        )
        solution = made(torch.ones(2, 3, dtype=torch.float64))
        solution.regularization.backward()
        assert float(torch.as_tensor(f.weight.grad).abs().max()) > 0
        values.append(float(solution.regularization.detach()))
        assert solution.stats.nfe_regularizer == (7 if estimator == "Tsit5" else 4)
    assert values[0] != values[1]


def test_the_estimators_value_and_gradient() -> None:
    """Those of `local_error` of the estimator, from where an accepted step of the solver starts."""
    f = torch.nn.Linear(2, 2).double()

    def dynamics(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(f(u))

    regularizer = plr.LocalRegularizer("biased", estimator="Tsit5", scale="linear")
    made = plr.NeuralODE(
        dynamics, solver="Rodas5P", engine="torch", regularizer=regularizer, params=list(f.parameters())
    )
    u0 = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    solution = made(u0, dense=True)
    (by_weight,) = torch.autograd.grad(solution.regularization, f.weight)
    candidates = []
    for t, dt in zip(solution.steps.t, solution.steps.dt, strict=True):
        u = solution(float(t)) if t else u0
        R = plr.local_error(dynamics, u, float(t), float(dt))
        candidates.append((R.detach(), torch.autograd.grad(R, f.weight)[0]))
    R, grad = min(candidates, key=lambda pair: float((pair[0] - solution.regularization.detach()).abs()))
    torch.testing.assert_close(R, solution.regularization.detach(), rtol=1e-8, atol=0)
    torch.testing.assert_close(grad, by_weight, rtol=1e-6, atol=0)
