"""What the stack refuses, as pylocalreg's error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.errors import OptionError


@contextmanager
def refusing(julia: Julia, what: str) -> Iterator[None]:
    """Where Julia may refuse what was asked for: ``what`` names it in the error.

    Raises:
        OptionError: with Julia's own text.
    """
    try:
        yield
    except julia.juliacall.JuliaError as error:
        failure = julia.call("failure", error.exception)
        if failure is None or failure[0] != "refusal":
            raise
        raise refusal(what, failure) from error


def refusal(what: str, failure: Any) -> OptionError:
    """The error of a failure of that kind: ("refusal", text, package that is missing, or "")."""
    _, text, package = failure
    advice = (
        f": run `pylocalreg install-julia --add {package}`, or add it to your own project" if package else ""
    )
    return OptionError(f"{what}: {text}{advice}")
