# mypy: ignore-errors
"""What a user may give by mistake: an error of ours, raised before anything is solved, never a raw one."""

import numpy as np
import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import LocalRegError
from tests.conftest import Net, normal
from tests.julia import ENGINES

HUGE = 10**400
U = torch.ones(3)


def node(**options):
    return plr.NeuralODE(lambda t, u: -u, **({"engine": "torch"} | options))


def sde(**options):
    return plr.NeuralSDE(Net(3), Net(3), engine="torch", **options)


CONSTRUCTED = {
    "generator, a name": lambda: plr.LocalRegularizer(generator="cpu"),
    "generator, numpy's": lambda: plr.LocalRegularizer(generator=np.random.default_rng(0)),
    "generator of STEER": lambda: plr.STEER(0.1, generator=3),
    "generator of an SDE": lambda: sde(generator="cpu"),
    "spread": lambda: plr.STEER("x"),
    "sampling": lambda: plr.LocalRegularizer(["x"]),
    "samples": lambda: plr.LocalRegularizer(samples="x"),
    "through_state": lambda: plr.LocalRegularizer(through_state="x"),
    "order": lambda: plr.TayNODE("x"),
    "kinetic": lambda: plr.RNODE("x"),
    "jacobian of RNODE": lambda: plr.RNODE(jacobian=[1]),
    "features": lambda: plr.RNODE(features="x"),
    "regularizer, a name": lambda: node(regularizer="biased"),
    "regularizer, a class": lambda: node(regularizer=plr.LocalRegularizer),
    "solver, a list": lambda: node(solver=["Tsit5"]),
    "solver, None": lambda: node(solver=None),
    "adjoint": lambda: node(adjoint=["discrete"]),
    "engine": lambda: node(engine=["torch"]),
    "jacobian": lambda: node(solver="Rodas5", jacobian=["x"]),
    "adaptive": lambda: node(adaptive="x"),
    "checkpoints": lambda: node(checkpoints=1.5),
    "params, numbers": lambda: node(params=(5,)),
    "params, a number": lambda: node(params=5),
    "noise": lambda: sde(noise=["diagonal"]),
    "tspan, a word": lambda: node(tspan="ab"),
    "tspan of three": lambda: node(tspan=(0, 1, 2)),
    "tspan, a matrix": lambda: node(tspan=torch.ones(2, 2)),
    "saveat, a matrix": lambda: node(saveat=torch.rand(2, 2)),
    "saveat, a number": lambda: node(saveat=torch.tensor(0.5)),
    "saveat, True": lambda: node(saveat=True),
    "saveat, complex": lambda: node(saveat=[1j]),
    "dt of two": lambda: node(dt=torch.ones(2)),
    "dynamics, a class": lambda: node().__class__(torch.nn.Linear),
    "activation": lambda: plr.Dense(3, 3, ["tanh"]),
    "inputs of Dense": lambda: plr.Dense("a", 3),
    "injected": lambda: plr.Chain(plr.Dense(3, 3), injected="x"),
    "budget": lambda: plr.schedules.NFEBudget("x", 1.0),
    "schedule": lambda: plr.schedules.Exponential(1.0, "x", 3),
    "path's shape": lambda: plr.BrownianPath(0.0, "abc", seed=0),
    "path's seed": lambda: plr.BrownianPath(0.0, (3,), seed="x"),
    "path's dtype": lambda: plr.BrownianPath(0.0, (3,), seed=0, dtype=torch.int32),
    "path's start": lambda: plr.BrownianPath("a", (3,), seed=0),
    "path's infinite start": lambda: plr.BrownianPath(float("inf"), (3,), seed=0),
    "path's time": lambda: plr.BrownianPath(0.0, (3,), seed=0)("x"),
}
HUGE_NUMBERS = {
    "tspan": lambda: node(tspan=(0, HUGE)),
    "abstol": lambda: node(abstol=HUGE),
    "reltol": lambda: node(reltol=HUGE),
    "dt": lambda: node(dt=HUGE),
    "saveat": lambda: node(saveat=[HUGE]),
    "saveat of a call": lambda: node()(U, saveat=[HUGE]),
    "maxiters": lambda: node(maxiters=HUGE),
    "checkpoints": lambda: node(checkpoints=HUGE),
    "samples": lambda: plr.LocalRegularizer(samples=HUGE),
    "spread": lambda: plr.STEER(HUGE),
    "order": lambda: plr.TayNODE(HUGE),
    "kinetic": lambda: plr.RNODE(HUGE),
    "tstops": lambda: node(tstops=[HUGE]),
    "dtmax": lambda: node(dtmax=HUGE),
    "gamma": lambda: node(gamma=HUGE),
    "trajectories": lambda: sde(trajectories=HUGE),
    "local_error": lambda: plr.local_error(lambda t, u: -u, U, 0, HUGE),
    "Dense": lambda: plr.Dense(HUGE, 3),
    "budget": lambda: plr.schedules.NFEBudget(HUGE, 1.0),
    "path": lambda: plr.BrownianPath(0.0, (3,), seed=HUGE),
    "path's time": lambda: plr.BrownianPath(0.0, (3,), seed=0)(HUGE),
    "solution": lambda: node()(U, dense=True)(HUGE),
}
CALLED = {
    "inputs, a dict": lambda: node()(U, inputs={"x": U}),
    "inputs, numbers": lambda: node()(U, inputs=(3,)),
    "noise, a tensor": lambda: sde()(normal(3), noise=normal(3)),
    "regularize": lambda: node()(U, regularize="x"),
    "dense": lambda: node()(U, dense="x"),
    "dense solution of a word": lambda: node()(U, dense=True)("x"),
    "dense solution of a list": lambda: node()(U, dense=True)([0.1, 0.2]),
    "dense solution of None": lambda: node()(U, dense=True)(None),
    "dense solution of NaN": lambda: node()(U, dense=True)(float("nan")),
    "abstol beyond float32": lambda: node(abstol=1e300)(U),
    "abstol beyond use": lambda: node(abstol=1e300)(U.double()),
    "dynamics that give None": lambda: plr.NeuralODE(lambda t, u: None, engine="torch")(U),
    "dynamics that give a number": lambda: plr.NeuralODE(lambda t, u: 3.0, engine="torch")(U),
    "local_error of None": lambda: plr.local_error(lambda t, u: None, U, 0, 0.1),
    "local_error's solver": lambda: plr.local_error(lambda t, u: -u, U, 0, 0.1, solver=["x"]),
    "local_error's gradient": lambda: plr.local_error(lambda t, u: -u, U, 0, 0.1, gradient=["x"]),
}
STATES = {
    "meta": lambda: torch.ones(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([U, U]),
    "mkldnn": lambda: U.to_mkldnn(),
    "inference": lambda: torch.inference_mode()(lambda: torch.ones(3))(),
    "integers": lambda: torch.ones(3, dtype=torch.int64),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "half": lambda: U.half(),
    "list": lambda: [U, U],
    "array": lambda: np.ones(3),
    "None": lambda: None,
    "word": lambda: "abc",
    "tuple in a tuple": lambda: (U, (U,)),
    "empty tuple": lambda: (),
}


@pytest.mark.parametrize("give", CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_constructed(give):
    with pytest.raises(LocalRegError):
        give()


@pytest.mark.parametrize("give", HUGE_NUMBERS.values(), ids=HUGE_NUMBERS)
def test_numbers_that_no_float_holds(give):
    with pytest.raises(LocalRegError):
        give()


@pytest.mark.parametrize("give", CALLED.values(), ids=CALLED)
def test_called(give):
    with pytest.raises(LocalRegError):
        give()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("give", STATES.values(), ids=STATES)
def test_states(give, engine):
    with pytest.raises(LocalRegError):
        node(engine=engine)(give())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("state", [torch.ones(2, 5), torch.tensor(1.0)])
def test_a_state_that_does_not_fit_the_layers(engine, state):
    with pytest.raises(LocalRegError, match="takes 3 features"):
        plr.NeuralODE(plr.Chain(plr.Dense(3, 3)), engine=engine)(state)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("saveat", [None, [0.5, 1.0]])
def test_states_that_are_taken(engine, saveat):
    """Dicts with any keys, scalars as parts, one input without a tuple, a tensor as a time."""
    of_keys = plr.NeuralODE(lambda t, s: {k: -v for k, v in s.items()}, engine=engine, saveat=saveat)
    solved = of_keys({1: U, ("a", 2): 2 * U}).u
    assert list(solved) == [1, ("a", 2)]
    torch.testing.assert_close(solved["a", 2], 2 * solved[1])
    scalars = plr.NeuralODE(lambda t, s: (-s[0], s[1]), engine=engine, saveat=saveat)
    x, y = scalars((torch.tensor(1.0), torch.tensor(2.0))).u
    assert x.shape == y.shape == (() if saveat is None else (2,))
    torch.testing.assert_close(x * y, torch.full_like(x, 2.0))
    driven = plr.NeuralODE(lambda t, u, x: x - u, engine=engine, saveat=saveat)
    torch.testing.assert_close(driven(U, inputs=U).u, torch.ones_like(driven(U, inputs=(U,)).u))
    dense = node(engine=engine)(U, dense=True)
    torch.testing.assert_close(dense(torch.tensor(0.5)), dense(0.5))


def test_a_reltol_below_rounding_is_taken():
    torch.testing.assert_close(node(reltol=1e-7)(U).u, U * torch.exp(torch.tensor(-1.0)))
