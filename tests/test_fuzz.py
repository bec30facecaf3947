"""Random problems: each ends in a right answer or in a typed error, and none hangs.

``PYLOCALREG_FUZZ=7`` takes seven times 300 of them; by default twice.

Right is judged by LSODA (ODEPACK) at a tight tolerance. Two more copies of the problem, started a little
apart, travel with it: how far they part is the growth of an error made on the way, and the derivative.
"""

import os
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.integrate import odeint

import pylocalreg as plr
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.methods import ODE_METHODS

Array = npt.NDArray[np.float64]

CHUNKS = int(os.environ.get("PYLOCALREG_FUZZ", "2"))
CASES = 300 * CHUNKS
MAXITERS = 300
SECONDS = 10.0  # of the processor's time for one case, which takes some 10 ms
COPIES = 2
APART = 1e-5
REFERENCE = 1e-9  # what the reference and the copies' linearity are good for, relative to the solution

LARGEST = 1e9  # a solution beyond it is about to blow up, whoever solves it

KINDS = {
    # kind: how often
    "smooth": 0.53,
    "oscillating": 0.08,
    "kinked": 0.06,
    "jumping in t": 0.06,
    "jumping in u": 0.05,
    "stiff": 0.06,
    "blowing up": 0.06,
    "leaving its domain": 0.04,
    "poisoned": 0.06,
}
SOLVABLE = ("smooth", "oscillating", "kinked")
"""Where an error would be a false alarm."""
ROUGHLY = 100.0
"""Times the bound, for a few: of a jump or a sharp bend in a step the estimate sees what few stages see."""


@dataclass
class Field:
    """The dynamics over the last dimension, in torch or, as the reference, in numpy (``xp``)."""

    kind: str
    weights: dict[str, Any]
    xp: Any

    def __call__(self, t: Any, u: Any) -> Any:
        xp, w = self.xp, self.weights
        net = xp.tanh(u @ w["w1"] + t * w["time"] + w["b1"]) @ w["w2"]
        if self.kind == "oscillating":
            return u @ (w["square"] - w["square"].T) + 0.1 * net
        if self.kind == "kinked":
            return net - xp.abs(u @ w["square"]) * 0.3
        if self.kind == "jumping in t":
            return xp.where(t > w["when"], net, 0.5 - net)
        if self.kind == "jumping in u":
            return net + w["size"] * xp.sign(u - 0.3)
        if self.kind == "stiff":
            return w["size"] * (xp.cos(t + w["b2"]) - u) + net
        if self.kind == "blowing up":
            return net + w["size"] * u**3
        if self.kind == "leaving its domain":
            return net * xp.sqrt(1 - (t - w["when"]) * w["size"])
        return net

    def in_numpy(self) -> "Field":
        return Field(self.kind, {name: w.double().numpy() for name, w in self.weights.items()}, np)


@dataclass
class Case:
    """A problem and how to solve it. The solver sees the state as ``layout`` says: whole or in two parts."""

    field: Field
    u0: torch.Tensor
    layout: str
    tspan: tuple[float, float]
    saveat: list[float]
    options: dict[str, Any]

    def split(self, u: torch.Tensor) -> Any:
        parts = u[..., :1], u[..., 1:]
        return {
            "tensor": u,
            "scalar": u[..., 0],
            "tuple": parts,
            "dict": dict(zip("ab", parts, strict=True)),
        }[self.layout]

    def join(self, state: Any) -> torch.Tensor:
        if self.layout == "scalar":
            joined: torch.Tensor = state[..., None]
            return joined
        if self.layout == "tensor":
            return torch.as_tensor(state)
        return torch.cat(list(state.values()) if self.layout == "dict" else list(state), dim=-1)

    def solve(self, u0: torch.Tensor, **changed: Any) -> plr.Solution:
        node = plr.NeuralODE(
            lambda t, state: self.split(self.field(t, self.join(state))),
            self.tspan,
            saveat=self.saveat,
            engine="torch",
            maxiters=MAXITERS,
            params=list(self.field.weights.values()),
            **(self.options | changed),
        )
        solution: plr.Solution = node(self.split(u0))
        return solution


def draw_case(rng: np.random.Generator) -> Case:
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    dtype = torch.float32 if rng.random() < 0.2 else torch.float64
    width, hidden = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    scale = 10 ** rng.uniform(-1.0, 0.4)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(np.asarray(scale * rng.standard_normal(shape))).to(dtype)

    start = float(rng.choice([0.0, rng.uniform(-3, 3)]))
    length = 10 ** (rng.uniform(-12, -1) if rng.random() < 0.15 else rng.uniform(-1, 1.3))
    direction = rng.choice([1.0, -1.0])
    if kind == "stiff":
        direction = 1.0  # backwards it is not stiff but explodes
    tspan = (start, start + direction * length)
    if dtype == torch.float32:
        tspan = (float(np.float32(tspan[0])), float(np.float32(tspan[1])))
    size = {"stiff": 10 ** rng.uniform(1, 6), "jumping in u": rng.uniform(-1, 1)}.get(kind, rng.uniform(0, 2))
    weights = {
        "w1": normal(width, hidden, scale=scale),
        "b1": normal(hidden),
        "time": normal(hidden),
        "w2": normal(hidden, width, scale=scale),
        "square": normal(width, width, scale=scale),
        "b2": normal(width),
        "size": torch.tensor(size, dtype=dtype),
        "when": torch.tensor(start + direction * length * rng.random(), dtype=dtype),
    }
    batch = [(), (), (3,), (2, 2)][rng.integers(4)]
    u0 = normal(*batch, width, scale=10 ** rng.uniform(-2, 0.5))
    if kind == "poisoned":
        poison = [float("nan"), float("inf"), -float("inf"), 1e300][rng.integers(4)]
        place = str(rng.choice(["w1", "b1", "w2", "u0"]))
        (u0 if place == "u0" else weights[place]).view(-1)[0] = torch.tensor(poison, dtype=torch.float64).to(
            dtype
        )
    layouts = ["tensor"] * 6 + (["tuple", "dict"] if width > 1 else ["scalar", "scalar"])

    # the stiff solvers take ten times as long
    solvers = [name for name, method in ODE_METHODS.items() for _ in range(1 if method.takes_jacobian else 2)]
    solver = str(rng.choice(solvers))
    tol = 10 ** rng.uniform(-4 if dtype == torch.float32 else -7, -2)
    options: dict[str, Any] = {"solver": solver, "abstol": tol, "reltol": tol * 10 ** rng.uniform(-1, 1)}
    options["reltol"] = max(options["reltol"], 2e-6 if dtype == torch.float32 else 0.0)
    if "error" not in ODE_METHODS[solver].estimates or rng.random() < 0.05:
        options |= {"adaptive": False, "dt": length / int(rng.integers(5, 100))}
    inner = np.sort(rng.random(int(rng.integers(0, 3))))
    saveat = [float(tspan[0] + x * (tspan[1] - tspan[0])) for x in inner] + [tspan[1]]
    if dtype == torch.float32:
        saveat = [float(np.float32(t)) for t in saveat]
    return Case(Field(kind, weights, torch), u0, str(rng.choice(layouts)), tspan, saveat, options)


@dataclass
class Truth:
    """The reference at the saved times and what it says of the problem.

    Attributes:
        u: the states, (times, elements).
        directions: in which the copies started apart, (copies, elements).
        derivative: the states' derivatives in these directions, (copies, times, elements).
        growth: by how much a distance between two copies ever grew.
        largest, fastest: the largest element of the state, and of its rate of change.
    """

    u: Array
    directions: Array
    derivative: Array
    growth: float
    largest: float
    fastest: float


def truth_of(case: Case, rng: np.random.Generator) -> Truth | None:
    """None where the reference does not reach the end."""
    u0 = case.u0.double().numpy()
    field = case.field.in_numpy()
    directions = rng.standard_normal((COPIES, *u0.shape))
    size = np.linalg.norm(directions.reshape(COPIES, -1), axis=1).reshape(-1, *[1] * u0.ndim)
    directions /= size
    if not np.isfinite(u0).all():
        return None
    apart = APART * (1 + np.abs(u0).max())
    copies = np.concatenate([u0[None], u0 + apart * directions])

    def f(t: float, flat: Array) -> Array:
        k: Array = field(t, flat.reshape(copies.shape)).reshape(-1)
        return k

    start, end = case.tspan
    sign = 1 if end > start else -1
    grid = sign * np.unique(sign * np.array([*np.linspace(start, end, 17)[:-1], *case.saveat]))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, info = odeint(
            f, copies.reshape(-1), grid, tfirst=True, rtol=REFERENCE / 10, atol=REFERENCE / 1000,
            tcrit=[end], mxstep=5000, full_output=True,
        )  # fmt: skip
    if info["message"] != "Integration successful." or not np.isfinite(path).all():
        return None
    path = path.reshape(len(grid), 1 + COPIES, -1)
    largest = float(np.abs(path).max())
    if largest > LARGEST:
        return None
    distance = np.linalg.norm(path[:, 1:] - path[:, :1], axis=2)
    floor = 1e-3 * apart  # below it a distance is the reference's own error
    growth = max(float((distance[i:] / np.maximum(d, floor)).max()) for i, d in enumerate(distance))
    saved = np.searchsorted(sign * grid, sign * np.array(case.saveat))
    derivative = (path[saved, 1:] - path[saved, :1]).swapaxes(0, 1) / apart
    fastest = float(np.abs(np.diff(path, axis=0) / np.diff(grid).reshape(-1, 1, 1)).max())
    return Truth(path[saved, 0], directions.reshape(COPIES, -1), derivative, growth, largest, fastest)


def flat(case: Case, state: Any) -> Array:
    """(times, elements)."""
    joined: Array = case.join(state).detach().double().numpy().reshape(len(case.saveat), -1)
    return joined


def bound(case: Case, truth: Truth, solution: plr.Solution) -> float:
    """Every step errs, by the tolerance or with fixed steps by what halving them changes, and by rounding of
    state and time; and what it erred grows as the copies part.
    """
    steps, growth, options = solution.stats.naccept, truth.growth, case.options
    size = 1 + truth.largest
    eps = float(torch.finfo(case.u0.dtype).eps)
    rounding = 10 * steps * eps * (size + truth.fastest * max(map(abs, case.tspan)))
    if "dt" not in options:
        tolerance = options["abstol"] + options["reltol"] * truth.largest
        error: float = growth * case.u0.numel() ** 0.5 * steps * tolerance
    else:
        halved = case.solve(case.u0, dt=options["dt"] / 2)
        error = 4 * float(np.abs(flat(case, solution.u) - flat(case, halved.u)).max())
        if case.field.kind.startswith("jumping"):  # to first order in the step that the jump is in
            error += growth * options["dt"] * truth.fastest
    return error + growth * (rounding + REFERENCE * size)


def error_of_gradient(case: Case, truth: Truth, adjoint: plr.Adjoint, checkpoints: int | None) -> float:
    """How far the derivatives of the last state's sum lie from the copies'."""
    u0 = case.u0.clone().requires_grad_()
    solution = case.solve(u0, adjoint=adjoint, checkpoints=checkpoints)
    (gradient,) = torch.autograd.grad(case.join(solution.u)[-1].sum(), u0)
    along = truth.directions @ gradient.double().numpy().reshape(-1)
    return float(np.abs(along - truth.derivative[:, -1].sum(axis=1)).max())


def check_gradient(case: Case, truth: Truth, allowed: float, rng: np.random.Generator) -> None:
    adjoint: plr.Adjoint = ADJOINTS[rng.integers(len(ADJOINTS))]
    checkpoints = None
    if adjoint == "backsolve":  # where the dynamics contract the state can not be solved far backwards
        checkpoints = 20
    elif ODE_METHODS[case.options["solver"]].one_step:
        checkpoints = (None, 2, 5)[rng.integers(3)]
    try:
        error = error_of_gradient(case, truth, adjoint, checkpoints)
    except plr.errors.StepLimitError:  # the backward solve may need more steps than the forward one
        return
    assert error <= 10 * allowed, (
        f"gradient by {adjoint}, checkpoints {checkpoints}: {error} > 10 x {allowed}"
    )


def resolved(case: Case) -> bool:
    """Whether the dtype tells the span, and steps in it, from nothing."""
    start, end = case.tspan
    return abs(end - start) > 1e4 * torch.finfo(case.u0.dtype).eps * max(abs(start), abs(end))


def raise_false_alarm(raised: plr.LocalRegError) -> None:
    """A low order at a tight tolerance may need more steps than it is given; no other error is due."""
    if not isinstance(raised, plr.errors.StepLimitError):
        raise AssertionError("an error for a solvable problem") from raised


def outcome(case: Case, rng: np.random.Generator) -> str:
    """``"right"``, ``"roughly right"``, ``"unchecked"`` (nothing to check by), or the error's name."""
    truth = truth_of(case, rng)
    try:
        solution = case.solve(case.u0)
    except plr.LocalRegError as raised:
        if truth is not None and case.field.kind in SOLVABLE and resolved(case):
            raise_false_alarm(raised)
        return type(raised).__name__
    u = flat(case, solution.u)
    assert np.isfinite(u).all(), "an answer that is not finite"
    if truth is None:
        return "unchecked"
    try:
        allowed = bound(case, truth, solution)
    except plr.LocalRegError:
        assert "dt" in case.options
        return "unchecked"  # half of an unstable step overflows sooner
    error = float(np.abs(u - truth.u).max())
    largest = ROUGHLY * allowed
    if case.field.kind.startswith("jumping"):  # which an estimate of the slopes before it does not see
        largest += truth.growth * truth.fastest * float(np.abs(solution.steps.dt).max())
    assert error <= largest, f"off by {error} > {largest}"
    if case.field.kind in ("smooth", "oscillating") and "dt" not in case.options and rng.random() < 0.2:
        check_gradient(case, truth, allowed, rng)
    return "right" if error <= allowed else "roughly right"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_right_or_typed_error(chunk: int) -> None:
    outcomes: Counter[str] = Counter()
    solvers = set()
    for number in range(chunk, CASES, CHUNKS):
        rng = np.random.default_rng(number)
        case = draw_case(rng)
        begun = time.process_time()
        try:
            result = outcome(case, rng)
        except Exception as error:
            raise AssertionError(f"case {number}, {case}") from error
        assert time.process_time() - begun < SECONDS, f"case {number}, {case}"
        outcomes[result] += 1
        if result == "right":
            solvers.add(case.options["solver"])
    assert solvers == set(ODE_METHODS)
    assert outcomes["right"] > 0.8 * outcomes.total(), outcomes
    assert outcomes["roughly right"] < 0.05 * outcomes.total(), outcomes
    assert outcomes["unchecked"] < 0.04 * outcomes.total(), outcomes
    assert outcomes["NonFiniteError"] > 0, outcomes
