"""The command line itself: what it says of itself, without any extra, and the shells' completions."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pylocalreg
from pylocalreg import cli
from pylocalreg.completion import script

COMMANDS = (
    "doctor",
    "install-julia",
    "parity",
    "completion",
    "demo",
    "digits-sde",
    "train",
    "sweep",
    "table",
    "figure",
)
WITHOUT = """
import sys
for extra in {extras}:
    sys.modules[extra] = None
from pylocalreg.cli import main
main({arguments})
"""
EXTRAS = ("matplotlib", "pooch", "pydantic", "yaml", "rich", "safetensors", "sklearn", "tqdm")


def without_extras(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    code = WITHOUT.format(extras=EXTRAS, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pylocalreg {pylocalreg.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"\n    {command}" in printed for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("doctor",), "For a bug report:"),
        (("completion", "bash"), "complete "),
        (("--help",), "install-julia"),
        (("train", "--help"), "--restart"),
    ],
)
def test_core_commands_need_no_extra(arguments: tuple[str, ...], printed: str, tmp_path: Path) -> None:
    done = without_extras(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_parity_needs_no_extra(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "data"
    case = "ode_td4_s1_float64_Tsit5_1e-06"
    done = without_extras(
        "parity", "--golden", str(golden), "--engine", "torch", "--only", case, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout
    assert "no pictures: pip install matplotlib" in done.stdout
    assert "<img" not in (tmp_path / "results/parity.html").read_text()


@pytest.mark.parametrize("arguments", [("demo",), ("train", "mnist_node", "--offline"), ("table", ".")])
def test_the_experiments_say_what_they_need(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = without_extras(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'pylocalreg[experiments]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_completions_know_every_command_and_option(shell: str) -> None:
    made = script(cli.parser(), shell)
    for word in (*COMMANDS, "restart", "golden", "cuda"):
        assert word in made


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("par",), ["parity"]),
        (("train", "--re"), ["--restart"]),
        (("completion", ""), ["--help", "bash", "zsh", "fish"]),
        (("--ver",), ["--version"]),
        (("nothing", ""), []),
    ],
)
def test_bash_completes(typed: tuple[str, ...], offered: list[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    words = " ".join(f"'{word}'" for word in ("pylocalreg", *typed))
    asked = (
        f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _pylocalreg; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        [bash, "--norc", "-c", f"{script(cli.parser(), 'bash')}\n{asked}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == offered


def test_a_mistake_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--steps", "none"])
    assert ended.value.code == 2
    assert "none is no whole number of at least 1" in capsys.readouterr().err
