"""`pylocalreg doctor` and `engine="julia"` with and without a Julia, and what juliapkg would install."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomlkit
from juliapkg.compat import Version
from juliapkg.deps import find_requirements

from pylocalreg.doctor import _of_another_julia, examine
from pylocalreg.engines.julia_engine.start import JULIA, LUXCUDA
from tests.julia import needs_julia

ROOT = Path(__file__).parents[1]
LOCALREG = ROOT / "julia" / "LocalReg"
RAN = Path(__file__).parent / "data" / "julia_versions.json"
NEWEST = Path(__file__).parent / "data" / "julia_newest_versions.json"


def without_julia(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run Python as on a machine that has none: an empty juliapkg project, no network."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON_JULIACALL", "PYTHON_JULIAPKG"))}
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=clean | env, check=False
    )


def test_engine_julia_without_julia(tmp_path: Path) -> None:
    done = without_julia(
        "-c",
        "import pylocalreg as plr\n"
        "from pylocalreg.errors import EngineUnavailableError\n"
        "try: plr.NeuralODE(lambda t, u: -u, engine='julia')\n"
        "except EngineUnavailableError as error: print(error)\n"
        "print(plr.NeuralODE(lambda t, u: -u).engine.name)",
        PYTHON_JULIAPKG_PROJECT=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    message, chosen = done.stdout.splitlines()
    assert "install-julia" in message
    assert "engine='torch'" in message
    assert chosen == "torch"
    assert "embedded PyTorch engine" in done.stderr


def test_doctor_without_julia(tmp_path: Path) -> None:
    done = without_julia(
        "-m", "pylocalreg.cli", "doctor", PYTHON_JULIAPKG_PROJECT=str(tmp_path), COLUMNS="200"
    )
    assert done.returncode == 0, done.stderr
    assert "not available" in done.stdout
    assert "pylocalreg install-julia" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PYTHON_JULIACALL_EXE": "/nowhere/julia"}, "set together"),
        (
            {"PYTHON_JULIACALL_EXE": "/nowhere/julia", "PYTHON_JULIACALL_PROJECT": "/nowhere"},
            "does not exist",
        ),
    ],
)
def test_doctor_names_what_is_wrong(env: dict[str, str], words: str) -> None:
    done = without_julia("-m", "pylocalreg.cli", "doctor", COLUMNS="200", **env)
    assert done.returncode == 0, done.stderr
    assert words in " ".join(done.stdout.split())


@needs_julia
def test_doctor_with_julia() -> None:
    found = {finding.name: finding for finding in examine()}
    assert found["Julia engine"].found == "available"
    assert found["SciMLSensitivity"].found.startswith("7.")
    assert not any(finding.advice for finding in found.values())


def test_juliapkg_json_asks_for_localreg() -> None:
    julia, packages = find_requirements()
    (localreg,) = (package for package in packages if package.name == "LocalReg")
    project = tomlkit.parse((LOCALREG / "Project.toml").read_text()).unwrap()
    assert localreg.uuid == project["uuid"]
    assert localreg.dev
    assert Path(localreg.path).resolve() == LOCALREG.resolve()
    assert Version.parse("1.10.3") in julia
    (lux,) = (package for package in packages if package.name == "Lux")  # for `using Lux` in a user's file
    assert lux.uuid == project["deps"]["Lux"]
    assert str(lux.version).lstrip("^") == project["compat"]["Lux"]  # the caret is the default of both


def test_the_versions_of_julia_are_the_same_everywhere() -> None:
    """Project.toml, juliapkg.json, doctor and docs/julia.md; juliacall starts no Julia older than 1.10.3."""
    assert tomlkit.parse((LOCALREG / "Project.toml").read_text()).unwrap()["compat"]["julia"] == JULIA
    oldest, newest = JULIA.split(" - ")
    installed = json.loads((ROOT / "juliapkg.json").read_text())["julia"]
    assert installed == f"{oldest}.3 - {newest}"
    text = " ".join((ROOT / "docs" / "julia.md").read_text().split())
    ran = json.loads(RAN.read_text())["julia"]["version"]
    assert f"LocalReg takes Julia {oldest} and {newest}" in text
    assert f"juliapkg installs one of {installed.replace(' - ', ' to ')}" in text
    last = json.loads(NEWEST.read_text())["julia"]["version"]
    assert f"the tests ran on {ran}, a Julia of one's own, and on {last}." in text
    assert set(re.findall(r"\b1\.1\d\b(?:\.\d+)?", text)) == {oldest, newest, f"{oldest}.3", ran, last}
    for version in (ran, f"{oldest}.3", f"{newest}.7"):
        assert _of_another_julia(version) == ""
    assert JULIA in _of_another_julia("1.9.4")
    assert JULIA in _of_another_julia("1.12.0")


def test_the_newest_versions_that_were_run_are_within_the_bounds() -> None:
    """They end with the oldest ones' first number that is not 0, and docs/julia.md names them."""
    oldest, newest = json.loads(RAN.read_text()), json.loads(NEWEST.read_text())
    assert set(oldest) == set(newest)
    text = (ROOT / "docs" / "julia.md").read_text()
    assert f"OrdinaryDiffEqCore {newest['OrdinaryDiffEqCore']['version']}" in text
    for name, row in newest.items():
        assert row.get("uuid") == oldest[name].get("uuid")
        first, last = ([int(part) for part in of[name]["version"].split(".")] for of in (oldest, newest))
        kept = next(i for i, part in enumerate(first) if part > 0) + 1
        assert first <= last
        assert first[:kept] == last[:kept], name


def test_the_oldest_versions_are_those_that_were_run() -> None:
    """The oldest version that Project.toml takes of a package is that which the Julia tests last ran on."""
    project = tomlkit.parse((LOCALREG / "Project.toml").read_text()).unwrap()
    ran = json.loads(RAN.read_text())
    standard = {"LinearAlgebra", "Logging"}
    asked = set(project["deps"]) | set(project["weakdeps"]) | set(project["extras"])
    assert set(project["compat"]) - {"julia"} == asked - standard - {"Test"}
    for name, uuid in project["deps"].items():
        if name in standard:
            continue
        assert ran[name]["uuid"] == uuid
        assert project["compat"][name] == ran[name]["version"]
    assert {"uuid": project["weakdeps"]["LuxCUDA"], "version": project["compat"]["LuxCUDA"]} == LUXCUDA
