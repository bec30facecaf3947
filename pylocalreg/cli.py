"""The command line."""

import sys
from pathlib import Path
from typing import Annotated

from pylocalreg.errors import LocalRegError, StoppedError


def main() -> None:
    """Entry point of ``pylocalreg``."""
    try:
        import typer
    except ModuleNotFoundError as error:
        sys.exit(f"pylocalreg's commands need {error.name}: pip install 'pylocalreg[experiments]'")

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def about() -> None:
        """Neural differential equations that learn to be cheap to solve."""

    @app.command()
    def demo(
        output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("results/demo.png"),
        steps: Annotated[int, typer.Option(min=1, help="Training steps a model.")] = 240,
        seed: Annotated[int, typer.Option(help="Seed of weights, batches and sampled times.")] = 0,
        engine: Annotated[str, typer.Option(help="auto, torch or julia.")] = "torch",
    ) -> None:
        """Train a digits classifier without and with local regularization; about a minute."""
        if output.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise typer.BadParameter("the picture is a .png, .pdf or .svg file", param_hint="--output")
        from rich.console import Console

        from pylocalreg.experiments import demo

        demo.run(output, steps, seed, engine, Console())

    @app.command()
    def digits_sde(
        seeds: Annotated[int, typer.Option(min=1, help="Runs of each model.")] = 5,
        steps: Annotated[int, typer.Option(min=1, help="Training steps a model.")] = 240,
        engine: Annotated[str, typer.Option(help="auto, torch or julia.")] = "torch",
    ) -> None:
        """Train a neural SDE on digits without and with local regularization; about ten minutes."""
        from rich.console import Console

        from pylocalreg.experiments import digits_sde

        digits_sde.run(seeds, steps, engine, Console())

    @app.command()
    def doctor() -> None:
        """Print what was found of the Julia engine, and what to do where something is missing."""
        from rich.console import Console
        from rich.table import Table

        from pylocalreg.doctor import examine

        table = Table("what", "found", "to do")
        for finding in examine():
            table.add_row(finding.name, finding.found, finding.advice)
        Console().print(table)

    @app.command()
    def parity(
        golden: Annotated[
            Path | None,
            typer.Option(help="Folder of golden numbers (index.json, ode.npz) to run in our table's place."),
        ] = None,
        engine: Annotated[
            list[str] | None, typer.Option(help="An engine to run; again for more. By default all there are.")
        ] = None,
        only: Annotated[str, typer.Option(help="Cases whose name has this in it.")] = "",
        paper: Annotated[
            Path | None,
            typer.Option(help="A checkout of the paper's LocalRegNeuralDE.jl, to run its code too."),
        ] = None,
        output: Annotated[Path, typer.Option(help="Where parity.json and parity.html go.")] = Path("results"),
    ) -> None:
        """Run the same cases on the engines, and print and write their differences side by side."""
        from rich.console import Console

        from pylocalreg.parity import command

        command.run(golden, engine, only, paper, output, Console())

    @app.command()
    def install_julia(
        cuda: Annotated[bool, typer.Option("--cuda", help="CUDA.jl and cuDNN as well.")] = False,
        add: Annotated[
            list[str] | None,
            typer.Option(help="A package with more algorithms, as OrdinaryDiffEqSDIRK; again for more."),
        ] = None,
    ) -> None:
        """Install Julia and the SciML stack by juliapkg, ahead of the first use; some minutes."""
        from pylocalreg.engines.julia_engine.start import install

        install(cuda, add or ())

    try:
        from pylocalreg.experiments import commands
    except ModuleNotFoundError as error:
        sys.exit(f"pylocalreg's commands need {error.name}: pip install 'pylocalreg[experiments]'")
    commands.add(app)

    try:
        app()
    except StoppedError as error:
        print(f"pylocalreg: {error}", file=sys.stderr)
        sys.exit(128 + error.signal)
    except LocalRegError as error:
        sys.exit(f"pylocalreg: {error}")


if __name__ == "__main__":
    main()
