"""The command line. Its parser needs no extra; a command that does imports it when it runs."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pylocalreg
from pylocalreg.arguments import Commands, command
from pylocalreg.errors import LocalRegError, StoppedError
from pylocalreg.experiments import commands as experiments

SHELLS = ("bash", "zsh", "fish")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``pylocalreg``: ``arguments``, by default the process' own, choose the command.

    Raises:
        SystemExit: where the command ends with anything but success, with its message or exit status.
    """
    options = vars(parser().parse_args(arguments))
    run = options.pop("run")
    try:
        run(**options)
    except StoppedError as error:
        print(f"pylocalreg: {error}", file=sys.stderr)
        sys.exit(128 + error.signal)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except LocalRegError as error:
        sys.exit(f"pylocalreg: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"pylocalreg: this command needs {error.name}: pip install 'pylocalreg[experiments]'")


def parser() -> argparse.ArgumentParser:
    """Every command with its options; completion scripts are made of it."""
    made = argparse.ArgumentParser(
        prog="pylocalreg", description="Neural differential equations that learn to be cheap to solve."
    )
    made.add_argument("--version", action="version", version=f"pylocalreg {pylocalreg.__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(commands)
    experiments.add(commands)
    return made


def _add(commands: Commands) -> None:
    command(commands, doctor)

    options = command(commands, install_julia)
    options.add_argument("--cuda", action="store_true", help="CUDA.jl and cuDNN as well")
    options.add_argument(
        "--add",
        action="append",
        metavar="PACKAGE",
        help="a package with more algorithms, as OrdinaryDiffEqSDIRK; again for more",
    )

    options = command(commands, parity)
    options.add_argument(
        "--golden",
        type=Path,
        metavar="FOLDER",
        help="golden numbers (index.json, ode.npz) to run in our table's place",
    )
    options.add_argument(
        "--engine", action="append", help="an engine to run; again for more; by default all there are"
    )
    options.add_argument("--only", default="", metavar="WORD", help="cases whose name has this in it")
    options.add_argument(
        "--paper",
        type=Path,
        metavar="FOLDER",
        help="a checkout of the paper's LocalRegNeuralDE.jl, to run its code too",
    )
    options.add_argument(
        "--output", type=Path, default=Path("results"), help="where parity.json and parity.html go"
    )

    options = command(commands, completion)
    options.add_argument("shell", choices=SHELLS)


def doctor() -> None:
    """Print what a bug report needs, the Julia engine included, and what to do where something is missing."""
    from pylocalreg.doctor import examine, report

    print(report(examine()))


def install_julia(cuda: bool, add: Sequence[str] | None) -> None:
    """Install Julia and the SciML stack by juliapkg, and check a solve; half an hour on two cores, once."""
    from pylocalreg.install_julia import install

    install(cuda, add or ())


def parity(
    golden: Path | None, engine: Sequence[str] | None, only: str, paper: Path | None, output: Path
) -> None:
    """Run the same cases on the engines, and print and write their differences side by side."""
    from pylocalreg.parity import command

    command.run(golden, engine, only, paper, output)


def completion(shell: str) -> None:
    """Print a shell's completion of these commands: eval "$(pylocalreg completion bash)"."""
    from pylocalreg.completion import script

    print(script(parser(), shell))


if __name__ == "__main__":
    main()
