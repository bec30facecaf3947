"""The experiments by every method: they learn, their gradients are right, their draws are their own."""

import functools
import math
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import OptionError
from pylocalreg.experiments import data, tasks
from pylocalreg.experiments.config import DATA_OF, Config, load
from pylocalreg.experiments.task import Data, Outcome
from pylocalreg.experiments.tasks import cifar10_conv, mnist_nsde, physionet
from pylocalreg.experiments.tasks.base import Experiment
from pylocalreg.experiments.tasks.ffjord import NormalizingFlow
from pylocalreg.experiments.tasks.flow_matching import FlowMatching

EXPERIMENTS = sorted(DATA_OF)

# Small enough for seconds.
SMALL: dict[str, list[str]] = {
    "mnist_node": [
        "solver.abstol=1e-4", "solver.reltol=1e-4", "train.steps=10", "optimizer.learning_rate=3e-3",
    ],
    "mnist_nsde": ["solver.abstol=0.5", "solver.reltol=0.5", "train.steps=12"],
    "physionet": ["solver.abstol=1e-2", "solver.reltol=1e-2", "train.steps=12"],
    "cifar10_conv": [
        "task.hidden=4", "task.channels=4", "solver.abstol=1e-1", "solver.reltol=1e-1", "train.steps=8",
        "optimizer.learning_rate=0.03",
    ],
    "cifar10_multiscale": [
        "task.channels=[4,8]", "task.expansion=1", "task.groups=2", "train.steps=10",
        "optimizer.learning_rate=0.03",
    ],
    "ffjord": ["solver.abstol=1e-2", "solver.reltol=1e-2", "train.steps=6", "optimizer.learning_rate=0.03"],
    "ffjord_digits": [
        "solver.abstol=1e-1", "solver.reltol=1e-1", "train.steps=6", "task.hidden=16",
        "optimizer.learning_rate=0.01",
    ],
    "flow_matching": [
        "task.hidden=32", "task.fine_tune=20", "train.steps=20", "solver.abstol=1e-1", "solver.reltol=1e-1",
        "optimizer.learning_rate=0.01",
    ],
}  # fmt: skip
BATCH = {
    "mnist_node": 64, "mnist_nsde": 64, "physionet": 32, "cifar10_conv": 8, "cifar10_multiscale": 4,
    "ffjord": 64, "ffjord_digits": 32, "flow_matching": 32,
}  # fmt: skip

# The training loss after train.steps steps on one batch, at most, as a share of that before.
SHARE = {
    "mnist_node": 0.7, "mnist_nsde": 0.6, "physionet": 0.2, "cifar10_conv": 0.8, "cifar10_multiscale": 0.92,
    "ffjord": 0.9, "ffjord_digits": 0.98, "flow_matching": 0.85,
}  # fmt: skip


def config(name: str, *changes: str) -> Config:
    return load(f"{name}_short", [*SMALL[name], "dtype=float32", f"train.batch={BATCH[name]}", *changes])


@functools.cache
def standin(name: str) -> Data:
    return data.load(load(f"{name}_short").data)


def build(settings: Config, seed: int = 0) -> Experiment:
    return tasks.build(settings, standin(settings.task.name), torch.Generator().manual_seed(seed))


def batch(settings: Config, count: int | None = None) -> list[torch.Tensor]:
    return [part[: count or settings.train.batch] for part in standin(settings.task.name).train]


def objective(task: Experiment, outcome: Outcome) -> torch.Tensor:
    return outcome.loss + task.weight(0) * outcome.regularization


AFTER = ("head", "features", "decoder")
"""The parts of the models that see the solution."""

CASES = [(name, method) for name in EXPERIMENTS for method in config(name).available_methods]


@pytest.mark.parametrize(
    ("name", "method"),
    # RNODE with a classifier and the flows, TayNODE but with images; elsewhere their gradients alone, below
    [
        (name, method)
        for name, method in CASES
        if method != "rnode" or name in ("mnist_node", "ffjord", "ffjord_digits")
        if method != "taynode" or not name.startswith("cifar10")
    ],
)
def test_learns(name: str, method: str) -> None:
    """What comes after the solve stays as it is: all there is to learn passes through the adjoint."""
    settings = config(name, f"method={method}")
    task, rows = build(settings), batch(settings)
    before = [p for key, p in task.named_parameters() if key.split(".")[0] not in AFTER]
    optimizer = torch.optim.Adam(before, settings.optimizer.learning_rate)
    losses, first = [], None
    for step in range(settings.train.steps):
        outcome = task(*rows)
        first = first or outcome
        losses.append(float(outcome.loss.detach()))
        optimizer.zero_grad()
        (outcome.loss + task.weight(step) * outcome.regularization).backward()
        for key, parameter in task.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
        optimizer.step()
    assert first is not None
    assert losses[-1] < SHARE[name] * losses[0], losses
    with_term = method not in ("vanilla", "steer")
    assert (task.weight(0) > 0) == with_term
    assert (float(first.regularization.detach()) > 0) == with_term
    extra = method in ("local_unbiased", "paper", "taynode", "rnode")
    assert (first.nfe_regularizer > 0) == (extra or (name == "flow_matching" and with_term))
    assert first.nfe > first.nfe_regularizer
    assert first.loss.dtype == torch.float32


REGULARIZED = [case for case in CASES if case[1] not in ("vanilla", "steer")]


@pytest.mark.parametrize(("name", "method"), REGULARIZED)
def test_the_regularizer_reaches_the_dynamics(name: str, method: str) -> None:
    settings = config(name, f"method={method}")
    task, rows = build(settings), batch(settings, 8)
    parameters = list(task.get_submodule("node").parameters())
    gradients = torch.autograd.grad(task(*rows).regularization, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.isfinite(gradient).all(), parameter.shape
        assert float(gradient.abs().max()) > 0, parameter.shape


@pytest.mark.parametrize(
    "method", ["local_unbiased", "local_biased", "global_error", "global_stiffness", "taynode", "rnode"]
)
def test_the_regularizer_alone_saves_evaluations(method: str) -> None:
    """The paper's does not: it is not the gradient of its value."""
    settings = config("cifar10_conv", "solver.abstol=1e-4", "solver.reltol=1e-4", f"method={method}")
    task, rows = build(settings), batch(settings)
    optimizer = torch.optim.Adam(task.get_submodule("node").parameters(), 0.02)
    counts = []
    for _ in range(7):
        outcome = task(*rows)
        counts.append(outcome.nfe - outcome.nfe_regularizer)
        optimizer.zero_grad()
        outcome.regularization.backward()
        optimizer.step()
    assert counts[-1] < 0.9 * counts[0]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "mnist_nsde"])
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    """Along a random direction through all parameters, against finite differences. (Those of a solve along a
    path of noise are held against the adjoint in test_sde_adjoint.)
    """
    tolerance = 1e-5 if name == "cifar10_multiscale" else 1e-8
    changes = [f"solver.abstol={tolerance}", f"solver.reltol={tolerance}", "dtype=float64"]
    settings = config(name, *changes)
    task, rows = build(settings), batch(settings, 4)
    generator = torch.Generator().manual_seed(5)
    parameters = list(task.parameters())
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.abs().mean() for p in parameters
    ]

    def loss(along: float) -> torch.Tensor:
        task.generator.manual_seed(1)
        if isinstance(task, physionet.Physionet):
            task.batches.fill_(200)  # the KL term has its weight
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(along * part)
        value: torch.Tensor = task(*rows).loss
        gradients = torch.autograd.grad(value, parameters) if along == 0 else None
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.sub_(along * part)
        if gradients is not None:
            return torch.cat([(g * part).reshape(-1) for g, part in zip(gradients, direction, strict=True)])
        return value.detach()

    size = 1e-5 if name == "cifar10_multiscale" else 1e-4  # it has kinks
    differences = (8 * (loss(size) - loss(-size)) - (loss(2 * size) - loss(-2 * size))) / (12 * size)
    torch.testing.assert_close(loss(0).sum(), differences, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_evaluation_neither_regularizes_nor_draws(name: str) -> None:
    settings = config(name, "method=local_unbiased")
    task, rows = build(settings).eval(), batch(settings)
    before = {key: value.clone() for key, value in task.state_dict().items()}
    states = task.generator.get_state()
    with torch.no_grad():
        one, two = task(*rows), task(*rows)
    assert float(one.regularization) == 0
    assert one.nfe_regularizer == 0
    assert not one.score.requires_grad
    if name in ("mnist_nsde", "ffjord_digits", "flow_matching"):
        assert not torch.equal(task.generator.get_state(), states)  # paths and noise of their own
    else:
        assert torch.equal(task.generator.get_state(), states)
        assert torch.equal(one.loss, two.loss)
    if task.metric == "accuracy":
        assert 0 <= int(one.score) <= len(rows[0])
    for key, value in task.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_draws_and_weights_are_those_of_the_seeds(name: str) -> None:
    settings = config(name, "method=local_unbiased")
    rows = batch(settings, 8)
    state = torch.get_rng_state()
    task, same, other = build(settings), build(settings), build(config(name, "train.seed=1"))
    assert torch.equal(torch.get_rng_state(), state)
    for (key, one), two in zip(task.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(one, two), key
    assert any(
        not torch.equal(one, two) for one, two in zip(task.parameters(), other.parameters(), strict=True)
    )
    first, second = task(*rows), task(*rows)
    again = same(*rows)
    assert torch.equal(first.regularization, again.regularization)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.regularization, second.regularization)
    (generator,) = same.generators().values()
    generator.set_state(task.generators()["task"].get_state())
    same.load_state_dict(task.state_dict())
    third, resumed = task(*rows), same(*rows)
    assert torch.equal(third.regularization, resumed.regularization)
    assert torch.equal(third.loss, resumed.loss)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mnist_node", ["method=global_error", "solver.adjoint=interpolating"], "discrete"),
        ("mnist_node", ["solver.name=SOSRI2"], "SDE"),
        ("mnist_node", ["method=steer", "methods.steer.spread=1.5"], "spread"),
        ("mnist_node", ["engine=julia"], "julia"),
        ("mnist_nsde", ["solver.adjoint=interpolating"], "discrete"),
        (
            "mnist_nsde",
            ["method=taynode", "methods.taynode={order: 2, coefficient: {start: 1, end: 1}}"],
            "TayNODE",
        ),
        (
            "cifar10_multiscale",
            ["method=global_stiffness", "methods.global_stiffness={coefficient: {start: 1, end: 1}}"],
            "VCAB3",
        ),
    ],
)
def test_what_can_not_be_done_is_refused_before_it_starts(
    name: str, changes: list[str], message: str
) -> None:
    with pytest.raises((OptionError, RuntimeError), match=message):
        build(config(name, *changes))


def test_a_tolerance_that_float32_does_not_resolve_is_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = config("mnist_node", "solver.reltol=3e-9", "solver.abstol=1e-5")
    with caplog.at_level("WARNING", "pylocalreg"):
        build(settings)(*batch(settings))
    assert "solve in torch.float64" in caplog.text


# -- parts ----------------------------------------------------------------------------------------------


def test_the_test_of_an_sde_takes_the_mean_of_its_paths() -> None:
    def deviation(trajectories: int) -> float:
        settings = config("mnist_nsde", f"task.trajectories={trajectories}")
        task = build(settings).eval()
        assert isinstance(task, mnist_nsde.MnistNsde)
        with torch.no_grad():
            task.node.diffusion.get_parameter("p").mul_(5)
            losses = torch.stack([task(*batch(settings, 4)).loss for _ in range(12)])
        return float(losses.std())

    assert deviation(20) < 0.6 * deviation(1)


def test_recognition_cell() -> None:
    cell = physionet.RecognitionCell(inputs=3, state=2, hidden=4)
    state, x = torch.randn(5, 4), torch.randn(5, 3)
    observed = torch.tensor([True, False, True, True, False])[:, None]
    with torch.no_grad():
        # the gate of the first mean and deviation is shut, that of the second is open
        gate = cell.update.get_submodule("2")
        gate.get_parameter("weight").zero_()
        gate.get_parameter("bias").copy_(torch.tensor([50.0, -50.0]))
        out = cell(state, x, observed)
        reset = cell.reset(torch.cat([state, x], 1)).sigmoid()
        new = cell.new(torch.cat([state[:, :2] * reset, state[:, 2:] * reset, x], 1)).tanh()
    assert torch.equal(out[~observed[:, 0]], state[~observed[:, 0]])
    seen = observed[:, 0]
    torch.testing.assert_close(out[seen][:, [0, 2]], state[seen][:, [0, 2]])
    torch.testing.assert_close(out[seen][:, [1, 3]], new[seen][:, [1, 3]])


def test_the_kl_term_grows_with_training() -> None:
    task = build(config("physionet"))
    assert isinstance(task, physionet.Physionet)
    weights = []
    for batches in (0, 100, 101, 200, 5000):
        task.batches.fill_(batches)
        weights.append(float(task._kl_weight()))
    assert weights == pytest.approx([0.0, 0.0, 0.01, 1 - 0.99**100, 1.0])
    task.batches.fill_(7)
    task(*batch(config("physionet"), 4))
    assert int(task.batches) == 8
    assert int(task.state_dict()["batches"]) == 8


def test_the_score_of_a_latent_ode_is_its_masked_error() -> None:
    """Unobserved values weigh nothing; each record counts the same."""
    settings = config("physionet")
    task = build(settings).eval()
    values, mask, times = batch(settings, 6)
    with torch.no_grad():
        whole = task(values, mask, times)
        single = [task(values[i : i + 1], mask[i : i + 1], times[i : i + 1]).score for i in range(6)]
        decoder: Any = task.decoder
        decoder.weight.zero_()
        decoder.bias.zero_()
        nothing = task(values, mask, times)
    torch.testing.assert_close(whole.score, torch.stack(single).sum(), rtol=1e-2, atol=0.0)
    right = sum(float(v[m].square().mean()) for v, m in zip(values, mask, strict=True))
    assert float(nothing.score) == pytest.approx(right, rel=1e-5)


def test_normalization() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[:, 1] = 255
    normalized = cifar10_conv.Normalize()(images)
    for channel, value in enumerate((0.0, 1.0, 0.0)):
        expected = (value - cifar10_conv.MEAN[channel]) / cifar10_conv.DEVIATION[channel]
        torch.testing.assert_close(normalized[0, channel], torch.full((32, 32), expected))


def flow_of(name: str) -> NormalizingFlow:
    task = build(config(name, "dtype=float64", "solver.abstol=1e-8", "solver.reltol=1e-8"))
    assert isinstance(task, NormalizingFlow)
    return task


def test_the_trace_of_a_flow_is_that_of_its_jacobian() -> None:
    f: Any = flow_of("ffjord").node.dynamics
    u, t = torch.randn(5, 3, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    axes = torch.eye(2, dtype=torch.float64)[:, None]
    jacobian = torch.func.jacrev(lambda u: f(t, u, axes))(u)
    exact = torch.stack([jacobian[i, :2, i, :2].trace() for i in range(5)])
    rates = f(t, u, axes)
    torch.testing.assert_close(rates[:, 2], exact, rtol=1e-12, atol=1e-14)
    eps = torch.randn(1, 5, 2, dtype=torch.float64)
    estimate = torch.stack([eps[0, i] @ jacobian[i, :2, i, :2] @ eps[0, i] for i in range(5)])
    torch.testing.assert_close(f(t, u, eps)[:, 2], estimate, rtol=1e-12, atol=1e-14)
    assert torch.equal(f(t, u, eps)[:, :2], rates[:, :2])


def test_a_flow_s_density_integrates_to_one() -> None:
    """Over a square that holds all but 1e-6 of it, by the midpoint rule."""
    task = flow_of("ffjord").eval()
    middles = torch.arange(-7, 7, 0.2, dtype=torch.float64) + 0.1
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(1.5)  # far from the identity
        points = torch.cartesian_prod(middles, middles)
        nll, _ = task.flow(points, torch.eye(2, dtype=torch.float64)[:, None])
        mass = (-nll).exp() * 0.2**2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    assert float((mass - mass.flip(0)).abs().max()) > 1e-3 * float(mass.max())


def test_the_likelihood_of_images_is_that_of_their_pixels() -> None:
    """Where the flow does not move, the density is known: the normal one of the pixels' logits."""
    task = flow_of("ffjord_digits").eval()
    (images,) = batch(config("ffjord_digits"), 6)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.zero_()
        task.generator.manual_seed(3)
        outcome = task(images)
    noise = torch.rand(6, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pixels = (images + noise).requires_grad_()
    logits = torch.logit(0.05 + 0.9 * pixels / 17)
    (slopes,) = torch.autograd.grad(logits.sum(), pixels)
    normal = -(logits.square() + math.log(2 * math.pi)) / 2
    bits = -(normal.detach() + slopes.log()).mean(1) / math.log(2)
    assert float(outcome.score) == pytest.approx(float(bits.sum()), rel=1e-9)
    assert float(outcome.loss) == pytest.approx(float(bits.mean()), rel=1e-9)


def test_rnode_regularizes_the_points_of_a_flow_alone() -> None:
    regularizer = build(config("ffjord_digits", "method=rnode")).get_submodule("node").regularizer
    assert isinstance(regularizer, plr.RNODE)
    assert regularizer.features == 64


def test_flow_matching_solves_in_its_last_steps_and_in_evaluation_alone() -> None:
    settings = config("flow_matching", "task.fine_tune=2", "train.steps=5", "method=local_biased")
    task, rows = build(settings), batch(settings)
    outcomes = [task(*rows) for _ in range(settings.train.steps)]
    assert [outcome.nfe == 1 for outcome in outcomes] == [True, True, True, False, False]
    for outcome in outcomes:
        assert outcome.nfe_regularizer == outcome.nfe - 1
        assert (float(outcome.regularization.detach()) > 0) == (outcome.nfe > 1)
    resumed = build(settings)
    resumed.load_state_dict(task.state_dict())
    assert resumed(*rows).nfe > 1
    vanilla = build(config("flow_matching", "task.fine_tune=5", "train.steps=5"))
    assert vanilla(*rows).nfe == 1
    with torch.no_grad():
        assert vanilla.eval()(*rows).nfe > 1
    assert vanilla(*rows).nfe_regularizer == 0


def test_flow_matching_s_velocity_is_the_one_that_meets_the_images() -> None:
    """The best velocity for a single image x_1 is (x_1 - (1 - s) x) / (1 - (1 - s) t): it has no error, and
    takes any noise to that image.
    """
    task = build(config("flow_matching", "task.smallest=0.1", "dtype=float64"))
    assert isinstance(task, FlowMatching)
    image = torch.randint(256, (1, 784), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x1 = 2 * image.double() / 255 - 1

    class Best(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dtype = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            velocity: torch.Tensor = (x1 - 0.9 * x) / (1 - 0.9 * t)
            return velocity

    task.node.dynamics = Best()
    assert float(task(image.expand(8, -1), torch.zeros(8)).score) == pytest.approx(0, abs=1e-24)
    noise = torch.randn(4, 784, dtype=torch.float64)
    ends = plr.NeuralODE(Best(), abstol=1e-10, reltol=1e-10, engine="torch")(noise).u
    torch.testing.assert_close(ends, x1 + 0.1 * noise)
