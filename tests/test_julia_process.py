"""The Julia engine as a guest in the process: memory, threads, interrupts, forks and errors."""

import ctypes
import gc
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import (
    DoubleBackwardError,
    EngineUnavailableError,
    LocalRegError,
    NonFiniteError,
    ShapeError,
    StepLimitError,
    StepUnderflowError,
)
from tests.julia import module_of, needs_julia

pytestmark = needs_julia


def node(**options: Any) -> plr.NeuralODE:
    module = module_of(plr.Chain(plr.Dense(8, 16, "tanh"), plr.Dense(16, 8)), torch.float64)
    return plr.NeuralODE(module, engine="julia", abstol=1e-4, reltol=1e-4, **options)


def train_once(ode: plr.NeuralODE, u0: torch.Tensor) -> torch.Tensor:
    start = u0.clone().requires_grad_()
    grad: torch.Tensor
    (grad,) = torch.autograd.grad(ode(start).u.sum(), start)
    return grad


def solve_again(ode: plr.NeuralODE, u0: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        solved: torch.Tensor = ode(u0).u
    return solved


def resident() -> float:
    """Resident memory in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="free memory is given back by glibc's malloc_trim"
)
@pytest.mark.parametrize(
    ("adjoint", "work"),
    [("discrete", train_once), ("interpolating", train_once), ("discrete", solve_again)],
    ids=["discrete", "interpolating", "no gradient"],
)
def test_memory_does_not_grow(
    adjoint: plr.Adjoint, work: Callable[[plr.NeuralODE, torch.Tensor], torch.Tensor]
) -> None:
    from pylocalreg.engines.julia_engine.start import start

    ode = node(adjoint=adjoint)
    u0 = torch.randn(4096, 8, dtype=torch.float64)

    def settled() -> float:
        """What is still held; the allocator keeps some of what is free."""
        for _ in range(4):  # a tensor of Julia's may hold an array of Python's, and so on
            gc.collect()
            start().main.GC.gc()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return resident()

    # Caches and the allocator's arenas fill in the first half, by up to 210 MiB on some machines; what leaks
    # grows in the second as in the first.
    for _ in range(600):
        work(ode, u0)
    before = settled()
    for _ in range(600):
        work(ode, u0)
    # a leak of one state a solve would be 150 MiB
    assert settled() - before < 100


def test_a_tensors_memory_lives_as_long_as_julias_array_of_it() -> None:
    from pylocalreg.engines.julia_engine.start import start

    main = start().main
    main.seval("import LocalReg, PythonCall")
    hold = main.seval("x -> (global held = LocalReg.array(PythonCall.Py(x)); nothing)")

    def collect() -> None:
        for _ in range(3):
            main.seval("(GC.gc(); GC.gc(false))")
            gc.collect()

    x = torch.arange(1000.0)
    alive = weakref.ref(x)
    hold(x)
    del x
    collect()
    others = [torch.full((1000,), -1.0) for _ in range(100)]  # where memory that was freed would be
    assert main.seval("held == 0:999")
    assert alive() is not None
    del others
    main.seval("held = nothing")
    collect()
    assert alive() is None


@pytest.mark.parametrize("once", [train_once, solve_again])
def test_twenty_threads_at_once(once: Callable[[plr.NeuralODE, torch.Tensor], torch.Tensor]) -> None:
    ode = node()
    inputs = [torch.randn(3, 8, dtype=torch.float64) for _ in range(20)]
    expected = [once(ode, u0) for u0 in inputs]
    gate = threading.Barrier(20)

    def work(u0: torch.Tensor) -> list[torch.Tensor]:
        gate.wait()
        return [once(ode, u0) for _ in range(10)]

    with ThreadPoolExecutor(20) as pool:
        for wanted, results in zip(expected, pool.map(work, inputs), strict=True):
            for result in results:
                torch.testing.assert_close(result, wanted, rtol=0, atol=0)


class Unlucky(Exception):
    """The user's own error."""


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_crash_in_the_dynamics_leaves_the_engine_usable(where: str) -> None:
    good, u0 = node(), torch.randn(3, 8, dtype=torch.float64)
    expected = train_once(good, u0)
    calls = 0
    broken = False

    def dynamics(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if broken or (where == "forward" and calls > 5):
            raise Unlucky("no more")
        return -u

    ode = plr.NeuralODE(dynamics, engine="julia")
    start = u0.clone().requires_grad_()

    def train() -> None:
        nonlocal broken
        loss = ode(start).u.sum()
        broken = True
        loss.backward()

    with pytest.raises(Unlucky, match="no more"):
        train()
    torch.testing.assert_close(train_once(good, u0), expected, rtol=0, atol=0)


def test_errors_of_the_solve() -> None:
    u0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(StepLimitError, match="maxiters = 3"):
        plr.NeuralODE(lambda t, u: torch.sin(50 * t) * u, engine="julia", maxiters=3)(u0)
    with pytest.raises((NonFiniteError, StepUnderflowError)):
        plr.NeuralODE(lambda t, u: u * u, (0.0, 2.0), engine="julia")(u0)
    with pytest.raises(NonFiniteError):
        plr.NeuralODE(lambda t, u: u * torch.nan, engine="julia")(u0)
    with pytest.raises(ShapeError):
        plr.NeuralODE(lambda t, u: u[:1], engine="julia")(u0)
    with pytest.raises(ShapeError):
        plr.NeuralODE(plr.Chain(plr.Dense(3, 3)), engine="julia")(torch.ones(2, 2))
    with pytest.raises(LocalRegError) as caught:
        plr.NeuralODE(lambda t, u: torch.sin(50 * t) * u, engine="julia", maxiters=3)(u0)
    assert "Stacktrace" in str(caught.value.__cause__)


def test_second_derivatives_are_refused() -> None:
    ode, u0 = node(regularizer=plr.LocalRegularizer()), torch.randn(3, 8, dtype=torch.float64)
    loss = ode(u0).regularization
    assert loss is not None
    with pytest.raises(DoubleBackwardError):
        torch.autograd.grad(loss, list(ode.parameters()), create_graph=True)


@pytest.mark.parametrize("host", [False, True])
def test_keyboard_interrupt(host: bool) -> None:
    module = module_of(plr.Chain(plr.Dense(8, 256, "tanh"), plr.Dense(256, 8)), torch.float64)
    dynamics = (lambda t, u: module(t, u)) if host else module
    slow = plr.NeuralODE(dynamics, (0.0, 1e6), engine="julia", maxiters=10**9)
    u0 = torch.randn(64, 8, dtype=torch.float64)
    with torch.no_grad():
        plr.NeuralODE(dynamics, engine="julia")(u0)  # Julia has started and compiled
    # Where the tests run in the background SIGINT is ignored from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), torch.no_grad():
            slow(u0)  # hours, were it not interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    train_once(node(), torch.randn(3, 8, dtype=torch.float64))


def test_keyboard_interrupt_of_a_solve_that_was_made_before() -> None:
    ode = plr.NeuralODE(
        plr.Chain(plr.Dense(8, 256, "sin"), plr.Dense(256, 8)), (0.0, 1e6), engine="julia", maxiters=10**9
    )
    p, u0 = ode.get_parameter("dynamics.p"), torch.randn(64, 8)
    own = p.detach().clone()
    with torch.no_grad():
        p.zero_()
        for _ in range(3):
            quick = ode(u0)
        p.copy_(own)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), torch.no_grad():
            ode(u0)
    finally:
        signal.signal(signal.SIGINT, before)
    with torch.no_grad():
        p.zero_()
        assert torch.equal(ode(u0).u, quick.u)


WITH_THREADS = """
import os, signal, sys, threading
import torch
import pylocalreg as plr
torch.manual_seed(0)
layers = plr.TimeDependent(plr.Dense(400, 64, "tanh"), plr.Dense(64, 400))
node, u0 = plr.NeuralODE(layers, engine="julia"), torch.randn(256, 400)
for _ in range(30):
    node(u0).u.square().sum().backward()
gradient = node.get_parameter("dynamics.p").grad / 30
from pylocalreg.engines.julia_engine.start import start
print(start().main.seval("Threads.nthreads()"), float(gradient.norm()))
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with torch.no_grad():
        plr.NeuralODE(layers, solver="RK4", dt=1e-6, adaptive=False, engine="julia")(u0)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_threads_of_julia() -> None:
    """They give the gradients of one, live through collections of garbage, and leave Ctrl-C to Python."""

    def run(threads: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", WITH_THREADS],
            env={**os.environ, "PYTHON_JULIACALL_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.split()

    (_, right, _), (count, norm, interrupted) = run(1), run(2)
    assert count == "2"
    assert float(norm) == pytest.approx(float(right), rel=1e-4)
    assert interrupted == "interrupted"


def _in_a_fork(queue: Any) -> None:
    try:
        train_once(node(), torch.randn(3, 8, dtype=torch.float64))
    except EngineUnavailableError as error:
        queue.put(str(error))
    except BaseException as error:  # whatever else must not hang the test
        queue.put(repr(error))
    else:
        queue.put("solved")


def test_a_fork_is_refused() -> None:
    train_once(node(), torch.randn(3, 8, dtype=torch.float64))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_a_fork, args=(queue,))
    child.start()
    message = queue.get()
    child.kill()  # Julia's own exit hooks would wait for threads that a fork does not have
    child.join()
    assert "fork" in message
    assert "spawn" in message
