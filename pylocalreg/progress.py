"""A bar that follows a long solve: share of the span, accepted steps, calls of the dynamics, step size."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pylocalreg.engines.base import Problem
from pylocalreg.errors import OptionError

Update = Callable[[float, int], None]
"""Called after each accepted step with its end and the calls made so far."""

FORMAT = "{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"


def check_progress(progress: bool) -> bool:
    """Whether there is to be a bar.

    Raises:
        OptionError: ``progress`` is no bool, or tqdm is not installed.
    """
    if not isinstance(progress, bool):
        raise OptionError(f"progress = {progress!r} must be True or False")
    if progress and importlib.util.find_spec("tqdm") is None:
        raise OptionError("progress=True needs tqdm: pip install 'pylocalreg[progress]'")
    return progress


def following(problem: Problem) -> AbstractContextManager[Update | None]:
    """The bar of one solve, closed at the end of it whatever that is; None where none is asked for."""
    return _bar(problem) if problem.progress else nullcontext()


@contextmanager
def _bar(problem: Problem) -> Iterator[Update]:
    from tqdm.auto import tqdm

    start, end = problem.tspan
    with tqdm(total=1.0, bar_format=FORMAT) as bar:
        steps, last = 0, start

        def update(t: float, calls: int) -> None:
            nonlocal steps, last
            steps += 1
            counts = f"t = {t:.4g}, {steps} steps, {calls} NFE, dt = {t - last:.2g}"
            bar.set_postfix_str(counts, refresh=False)
            bar.update((t - last) / (end - start))
            last = t

        yield update
