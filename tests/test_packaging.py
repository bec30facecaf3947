"""Wheel and sdist, each built and installed in a fresh environment without the checkout; and the files that
have to say the same.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
import yaml

import pylocalreg

ROOT = Path(__file__).parents[1]
FIND = """
import json, pylocalreg
from juliapkg.deps import find_requirements
(found,) = (package for package in find_requirements()[1] if package.name == "LocalReg")
print(json.dumps([found.path, found.dev, pylocalreg.__file__]))
"""


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", into, source, cwd=into)
    (built,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.mark.parametrize("through", ["wheel", "sdist"])
def test_an_installed_package_brings_its_julia_project(tmp_path: Path, through: str) -> None:
    source = ROOT
    if through == "sdist":
        made = tmp_path / "sdist"
        made.mkdir()
        with tarfile.open(build("sdist", ROOT, made)) as archive:
            archive.extractall(made, filter="data")
        (source,) = (folder for folder in made.iterdir() if folder.is_dir())
    out = tmp_path / "wheel"
    out.mkdir()
    wheel = build("wheel", source, out)
    fresh = tmp_path / "fresh"
    venv.create(fresh, symlinks=True)
    python = fresh / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(sys.executable, *install, wheel, cwd=tmp_path)
    # what pylocalreg depends on comes from this environment; its editable install does not, a .pth file there
    packages = os.pathsep.join(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    said = run(python, "-c", FIND, cwd=tmp_path, PYTHONPATH=packages)
    path, dev, module = json.loads(said.splitlines()[-1])
    installed = Path(module).parent
    assert fresh in installed.parents
    assert dev
    assert Path(path).resolve() == (installed / "julia" / "LocalReg").resolve()
    ours, theirs = ROOT / "julia" / "LocalReg", Path(path)
    names = sorted(str(file.relative_to(ours)) for file in ours.rglob("*.*") if file.name != "Manifest.toml")
    assert names == sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*.*"))
    assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)


def test_one_version() -> None:
    said = [
        re.search(rf'^{name} *[=:] *"?([\d.]+)"?$', (ROOT / file).read_text(), re.MULTILINE)
        for name, file in (("version", "pyproject.toml"), ("version", "CITATION.cff"))
    ]
    assert [found and found[1] for found in said] == [pylocalreg.__version__] * 2


def test_ci_and_nox_try_the_same_pairs_of_python_and_torch() -> None:
    nox = re.search(r"^PAIRS = (\[.*?^\])", (ROOT / "noxfile.py").read_text(), re.MULTILINE | re.DOTALL)
    assert nox is not None
    pairs = [(python, torch) for python, torch, _ in ast.literal_eval(nox[1])]
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    rows = workflow["jobs"]["suite"]["strategy"]["matrix"]["include"]
    assert [(row["python"], row["torch"]) for row in rows if row["os"] == "ubuntu-latest"] == pairs
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert sorted({python for python, _ in pairs}) == sorted(classifiers)
    assert {row["os"] for row in rows} == {"ubuntu-latest", "macos-latest", "windows-latest"}
