"""A user's own tableau: what it claims is checked, and it solves as those that are there."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.engines.torch_engine.methods import METHODS, ODE_METHODS, REGISTERED
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.engines.torch_engine.tableaus.order import trees
from pylocalreg.errors import OptionError
from pylocalreg.registration import hermite
from tests.conftest import Net, assert_close, normal, replay

HEUN_EULER = plr.Tableau(
    name="own HeunEuler",
    source="K. Heun (1900)",
    order=2,
    c=(1.0,),
    a=((1.0,),),
    solution=(0.5, 0.5),
    btilde=(-0.5, 0.5),
)
FEHLBERG = plr.Tableau(
    name="own RKF45",
    source="E. Fehlberg (1969)",
    order=5,
    c=(1 / 4, 3 / 8, 12 / 13, 1.0, 1 / 2),
    a=(
        (1 / 4,),
        (3 / 32, 9 / 32),
        (1932 / 2197, -7200 / 2197, 7296 / 2197),
        (439 / 216, -8.0, 3680 / 513, -845 / 4104),
        (-8 / 27, 2.0, -3544 / 2565, 1859 / 4104, -11 / 40),
    ),
    solution=(16 / 135, 0.0, 6656 / 12825, 28561 / 56430, -9 / 50, 2 / 55),
    btilde=(1 / 360, 0.0, -128 / 4275, -2197 / 75240, 1 / 50, 2 / 55),
)
MIDPOINT = plr.Tableau("own midpoint", "C. Runge (1895)", 2, (0.5,), ((0.5,),), solution=(0.0, 1.0))
OWN_BS3 = dataclasses.replace(TABLEAUS["BS3"], name="own BS3", interpolant=())
EVERY = (HEUN_EULER, FEHLBERG, MIDPOINT, OWN_BS3)
each_tableau = pytest.mark.parametrize("tableau", EVERY, ids=lambda tableau: tableau.name)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for tableau in EVERY:
        plr.register(tableau)
    yield
    for name in tuple(REGISTERED):
        REGISTERED.discard(name)
        for methods in (METHODS, ODE_METHODS, TABLEAUS):
            methods.pop(name)  # type: ignore[attr-defined]


def make(solver: str, f: Any = None, **options: Any) -> plr.NeuralODE:
    fixed = {} if TABLEAUS[solver].btilde else {"dt": 0.05}
    own: dict[str, Any] = {"abstol": 1e-6, "reltol": 1e-6, "engine": "torch", **fixed}
    return plr.NeuralODE(f or Net(3), solver=solver, **(own | options))


# -- order -----------------------------------------------------------------------------------------------


def test_as_many_conditions_as_rooted_trees() -> None:
    assert [len(trees(order)) for order in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    names = {"c * c * c", "(A @ c) * c", "(A @ (c * c))", "(A @ (A @ c))"}
    assert {str(tree) for tree in trees(4)} == names
    assert sorted(tree.density for tree in trees(4)) == [4, 8, 12, 24]


@pytest.mark.parametrize("name", ["BS3", "DP5", "Euler", "RK4", "Tsit5", "Vern7"])
def test_the_methods_that_are_there_have_their_order_and_no_more(name: str) -> None:
    tableau = dataclasses.replace(TABLEAUS[name], name=f"copy of {name}")
    plr.register(tableau)
    with pytest.raises(OptionError, match=f"order {tableau.order + 1} does not hold"):
        plr.register(dataclasses.replace(tableau, order=tableau.order + 1))


@each_tableau
def test_the_error_falls_as_the_order_says(tableau: plr.Tableau) -> None:
    f, u0 = Net(3), normal(4, 3)
    right = make("Vern7", f, abstol=1e-12, reltol=1e-12)(u0).u
    errors = [
        float((make(tableau.name, f, adaptive=False, dt=dt)(u0).u - right).norm()) for dt in (1 / 10, 1 / 20)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**tableau.order, rel=0.3)


# -- solves ----------------------------------------------------------------------------------------------


def test_a_copy_takes_the_same_steps() -> None:
    f, u0 = Net(3), normal(4, 3)
    ours, right = (make(name, f, saveat=[0.3, 1.0])(u0) for name in ("own BS3", "BS3"))
    assert ours.stats == right.stats
    torch.testing.assert_close(ours.u, right.u, rtol=1e-14, atol=1e-16)


@each_tableau
@pytest.mark.parametrize("adjoint", ["discrete", "interpolating"])
def test_gradients_dense_output_and_saved_times(tableau: plr.Tableau, adjoint: plr.Adjoint) -> None:
    f, u0 = Net(3), normal(4, 3)
    solution = make(tableau.name, f, adjoint=adjoint, saveat=[0.37, 1.0])(u0, dense=True)
    right = make("Vern7", f, abstol=1e-12, reltol=1e-12, saveat=[0.37, 1.0])(u0)
    torch.testing.assert_close(solution.u, right.u, rtol=0, atol=2e-3)
    torch.testing.assert_close(solution(0.37), solution.u[0], rtol=1e-12, atol=1e-12)
    ours = [*torch.autograd.grad(solution.u[-1].square().sum(), [*f.parameters()])]
    if adjoint == "discrete":
        u = replay(f, u0, solution.steps, TABLEAUS[tableau.name])[-1]
        assert_close(ours, [*torch.autograd.grad(u.square().sum(), [*f.parameters()])], rtol=1e-9)
    else:
        exact = [*torch.autograd.grad(right.u[-1].square().sum(), [*f.parameters()])]
        assert_close(ours, exact, rtol=1e-2)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_its_own_estimate_regularizes(sampling: plr.Sampling) -> None:
    f, u0 = Net(3), normal(4, 3)
    node = make("own RKF45", f, regularizer=plr.LocalRegularizer(sampling))
    solution = node(u0)
    assert solution.regularization is not None
    assert all(g.isfinite().all() for g in torch.autograd.grad(solution.regularization, [*f.parameters()]))
    value = plr.local_error(f, u0, 0.0, 0.1, solver="own RKF45")
    assert value > 0
    with pytest.raises(OptionError, match="own midpoint has no error estimate"):
        make("own midpoint", f, regularizer=plr.LocalRegularizer(sampling))


# -- what is refused -------------------------------------------------------------------------------------


def changed(**fields: Any) -> plr.Tableau:
    return dataclasses.replace(FEHLBERG, name="own wrong", **fields)


@pytest.mark.parametrize(
    ("tableau", "match"),
    [
        (
            changed(solution=(16 / 135, 0.0, 6656 / 12825, 28561 / 56430, -9 / 50, 3 / 55)),
            r"claims order 5, and a condition of order 1 .*sum\(b \* 1\) is 1\.018181818, not 1 / 1",
        ),
        (changed(order=6), r"claims order 6, and a condition of order 6 .*not 1 / \d+ = 0\."),
        (changed(c=(1 / 4, 3 / 8, 12 / 13, 1.0, 0.6)), r"stage 6 has the node c = 0\.6, .*sums to 0\.5"),
        (changed(btilde=(1 / 360, 0.0, 0.0, 0.0, 1 / 50, 2 / 55)), r"btilde.*sums to 0\.059.*not to 0"),
        (changed(btilde=(0.0,) * 6), "btilde is 0"),
        (changed(order=9), "order = 9 must be"),
        (changed(a=FEHLBERG.a[:-1]), "c has 5 nodes and a has 4 rows"),
        (changed(a=((0.25, 0.0), *FEHLBERG.a[1:])), "row 2 of a has 2 weights"),
        (changed(solution=(1.0,) * 7), "solution has 7 weights for 6 stages"),
        (changed(solution=None), "solution=None stage 6 is at the new state"),
        (changed(interpolant=((1.0,),) * 6), "at theta = 1"),
        (changed(interpolant=((1.0,),)), "interpolant has 1 rows for 6 stages"),
        (changed(c=(float("nan"), *FEHLBERG.c[1:])), "not finite"),
        (dataclasses.replace(FEHLBERG, name="Tsit5"), "'Tsit5' is taken"),
        (dataclasses.replace(HEUN_EULER, name="own RKF45"), "'own RKF45' is taken"),
        (dataclasses.replace(FEHLBERG, name=""), "name = ''"),
    ],
)
def test_refused_with_the_numbers(tableau: plr.Tableau, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        plr.register(tableau)
    assert "own wrong" not in METHODS


def test_to_register_again_does_nothing() -> None:
    before = METHODS["own RKF45"]
    plr.register(FEHLBERG)
    assert METHODS["own RKF45"] is before
    with pytest.raises(OptionError, match=r"give a pylocalreg\.Tableau"):
        plr.register("Tsit5")  # type: ignore[arg-type]


def test_the_cubic_meets_both_ends_states_and_slopes() -> None:
    for tableau in EVERY:
        whole = hermite(tableau)
        ends = whole.interpolant_weights(1.0)
        assert ends == pytest.approx([*whole.b, *[0.0] * (len(ends) - len(whole.b))])
        slopes = [
            [sum((i + 1) * c * theta**i for i, c in enumerate(row)) for row in whole.interpolant]
            for theta in (0, 1)
        ]
        first, last = [1.0, *[0.0] * (len(ends) - 1)], [*[0.0] * (len(ends) - 1), 1.0]
        assert slopes[0] == pytest.approx(first)
        assert slopes[1] == pytest.approx(last, abs=1e-12)
