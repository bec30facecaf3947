"""`nox`: the tests on every pair of Python and torch that is promised, and what a release goes through.

`nox -s tests` runs the pairs whose Python is on this machine; `nox -s "tests(3.12, 2.6.0)"` one of them.
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PAIRS = [
    ("3.10", "2.2.2", "numpy<2"),  # this torch was built for the numpy before 2
    ("3.11", "2.4.1", "numpy"),
    ("3.11", "2.13.0", "numpy"),
    ("3.12", "2.6.0", "numpy"),
    ("3.13", "2.9.1", "numpy"),
    ("3.14", "2.15.0", "numpy"),
]
"""The oldest and the newest torch, and each Python; .github/workflows/tests.yml has the same."""


@nox.session
@nox.parametrize("python,torch,numpy", PAIRS, ids=[f"{python}, {torch}" for python, torch, _ in PAIRS])
def tests(session: nox.Session, torch: str, numpy: str) -> None:
    """The suite."""
    session.install(f"torch=={torch}", numpy)
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session(venv_backend="none")
def release(session: nox.Session) -> None:
    """The distributions and the files beside them, as CI makes and checks them."""
    session.run("make", "release")
