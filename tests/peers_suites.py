"""The peers' own public tests, run with the drop-ins in the place of the peers' calls.

    python tests/peers_suites.py torchdiffeq FOLDER

FOLDER holds the peer's tests, from a checkout of its repository; the peer itself is installed. Printed is a
Markdown table: how many cases of each test pass, fail, and are absent, which is refused by name; and why.
"""

import importlib
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SUITES = {
    "torchdiffeq": (
        "api_tests.py",
        "event_tests.py",
        "gradient_tests.py",
        "norm_tests.py",
        "odeint_tests.py",
    ),
    "torchsde": ("test_sdeint.py",),
    "torchode": (
        *("adjoint_test.py", "extra_args_test.py", "fixed_step_controller_test.py", "interface_test.py"),
        "torch_script_test.py",
    ),
}
SERVED = {
    "torchdiffeq": ("odeint", "odeint_adjoint", "odeint_event"),
    "torchsde": ("sdeint",),
    "torchode": ("AutoDiffAdjoint", "solve_ivp"),
}
ABSENT = {
    "torchdiffeq": ("odeint_dense",),
    "torchsde": ("sdeint_adjoint",),
    "torchode": ("BacksolveAdjoint", "JointBacksolveAdjoint"),
}
REFUSED = re.compile(r"^E\s+pylocalreg\.errors\.(OptionError|DtypeError|ToleranceError): (.*)", re.MULTILINE)
RAISED = re.compile(r"^E\s+(.*)", re.MULTILINE)
KINDS = ("pass", "fail", "absent")


class Verdicts:
    """A pytest plugin that counts cases and reasons by test. Subtests are cases; so is a test without any."""

    def __init__(self) -> None:
        self.cases: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()
        self.with_subtests: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        subtest = type(report).__name__ == "SubtestReport"
        if subtest:
            self.with_subtests.add(report.nodeid)
        elif report.nodeid in self.with_subtests or (report.when != "call" and report.passed):
            return
        if report.skipped:
            return
        kind = "pass" if report.passed else "fail"
        if report.failed:
            text = str(report.longrepr)
            refusals, raised = REFUSED.findall(text), RAISED.findall(text)
            kind = "absent" if refusals else "fail"
            reason = refusals[-1][1] if refusals else raised[0] if raised else text[-100:]
            self.reasons[f"{kind}: {re.sub(r'[0-9.]+e?-?[0-9]*', 'x', reason)[:90]}"] += 1
        name = report.nodeid.split("[")[0].rsplit("/", 1)[-1]
        self.cases[name][kind] += 1

    def table(self) -> str:
        rows = ["| test | pass | fail | absent |", "|---|---:|---:|---:|"]
        total: Counter[str] = Counter()
        for name, counts in self.cases.items():
            total += counts
            rows.append(f"| `{name}` | " + " | ".join(str(counts[kind]) for kind in KINDS) + " |")
        rows.append("| all | " + " | ".join(str(total[kind]) for kind in KINDS) + " |")
        return "\n".join(rows)


def absent(name: str) -> Any:
    """What stands in the place of a call that no drop-in serves."""

    def call(*_: object, **__: object) -> None:
        from pylocalreg.errors import OptionError

        raise OptionError(f"{name} is not served")

    return call


def take_the_place_of(peer: ModuleType) -> None:
    """Give the peer's module the drop-in's calls."""
    name = peer.__name__
    ours = importlib.import_module(f"pylocalreg.integrations.{name}")
    for call in SERVED[name]:
        setattr(peer, call, getattr(ours, call))
    for call in ABSENT[name]:
        setattr(peer, call, absent(call))


def main(name: str, folder: str) -> int:
    # the peer's tests may be a package of this folder's name, with modules of this folder's names
    sys.path[:] = [
        path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent.resolve()
    ]
    take_the_place_of(importlib.import_module(name))
    verdicts = Verdicts()
    files = [str(Path(folder) / file) for file in SUITES[name]]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-o", "python_files=*.py", "--rootdir", folder]
    sys.argv = sys.argv[:1]
    pytest.main([*options, *files], plugins=[verdicts])
    print("\n" + verdicts.table() + "\n")
    for reason, count in verdicts.reasons.most_common():
        print(f"{count:5} {reason}")
    return 0 if verdicts.cases else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
