"""`pylocalreg train`, `sweep`, `table` and `figure`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar

from pylocalreg.experiments import config, files, records, tables
from pylocalreg.experiments import paper as paper_numbers
from pylocalreg.experiments.config import Config
from pylocalreg.experiments.distributed import Team, joined
from pylocalreg.experiments.metrics import METRICS
from pylocalreg.experiments.records import Record
from pylocalreg.experiments.train import Progress

Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Once for each method; all of the config's by default.")
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A change of the config: train.steps=100, say. Repeatable.")
]
Output = Annotated[Path, typer.Option(help="Where runs go: CONFIG/METHOD/seed-SEED.")]
Folder = Annotated[Path | None, typer.Option("--data", help="Folder of the data set's files.")]
Offline = Annotated[bool, typer.Option("--offline", help="A small stand-in for the data; no download.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="auto, torch or julia.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Board = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.")]
Restart = Annotated[bool, typer.Option("--restart", help="Start over where the folder holds another run.")]
Runs = Annotated[list[Path], typer.Argument(help="Folders with runs, at any depth.")]
PaperFile = Annotated[
    Path | None, typer.Option("--paper", help="The paper's numbers, in place of the packaged.")
]

RUNS, PRINTED = Path("results/runs"), Path("results")


def add(app: typer.Typer) -> None:
    """Make them commands of ``app``."""
    for command in (train, sweep, table, figure):
        app.command()(command)


def train(
    name: Annotated[str, typer.Argument(metavar="CONFIG", help="A packaged config's name, or a YAML file.")],
    method: Annotated[str | None, typer.Option(help="In place of the config's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the config's.")] = None,
    changes: Changes = None,
    output: Output = RUNS,
    data: Folder = None,
    offline: Offline = False,
    engine: EngineName = None,
    device: Device = "cpu",
    tensorboard: Board = False,
    restart: Restart = False,
) -> None:
    """Train one model, or go on where an earlier call was stopped."""
    given = [f"method={method}"] if method is not None else []
    given += [f"train.seed={seed}"] if seed is not None else []
    chosen = config.load(name, [*config_changes(changes, data, offline, engine), *given])
    with joined(device) as team:
        _train(name, [chosen], output, team, tensorboard, restart)


def sweep(
    names: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="As in train, one or more.")],
    method: Methods = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method, of seeds 0, 1, ...")] = 3,
    changes: Changes = None,
    output: Output = RUNS,
    data: Folder = None,
    offline: Offline = False,
    engine: EngineName = None,
    device: Device = "cpu",
    tensorboard: Board = False,
    restart: Restart = False,
) -> None:
    """Train every method from several seeds; what is done already is not done again."""
    given = config_changes(changes, data, offline, engine)
    # All configs are read before the first run starts: a mistake in the last one is found now.
    planned = {name: _planned(name, given, method, seeds) for name in names}
    with joined(device) as team:
        for name, configs in planned.items():
            _train(name, configs, output, team, tensorboard, restart)


def table(
    folders: Runs,
    number: Annotated[
        list[int] | None, typer.Option("--number", help="2 to 6; by default all that have runs.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where table-N.md and table-N.tex go.")] = PRINTED,
    paper: PaperFile = None,
) -> None:
    """Print the paper's tables from finished runs, beside the paper's numbers; write Markdown and LaTeX."""
    found, numbers = records.load_all(folders), paper_numbers.load(paper)
    for wanted in _numbers(number, tuple(tables.TABLES)) or tables.printable(found):
        sections = tables.table(wanted, found, numbers)
        text = tables.markdown(wanted, sections)
        typer.echo(text)
        files.write_text(output / f"table-{wanted}.md", text)
        files.write_text(output / f"table-{wanted}.tex", tables.latex(wanted, sections))


def figure(
    folders: Runs,
    number: Annotated[
        list[int] | None, typer.Option("--number", help="1 to 10; by default all that have runs.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where figure-N.png and figure-N.pdf go.")] = PRINTED,
    paper: PaperFile = None,
) -> None:
    """Draw the figures from finished runs, as PNG and PDF."""
    from pylocalreg.experiments import figures

    found, numbers = records.load_all(folders), paper_numbers.load(paper)
    for wanted in _numbers(number, figures.FIGURES) or figures.drawable(found):
        for path in figures.draw(wanted, found, output, numbers):
            typer.echo(path)


def config_changes(
    changes: Sequence[str] | None, data: Path | None, offline: bool, engine: str | None
) -> list[str]:
    """What the options of a command change in a config."""
    return [
        *(changes or ()),
        *([f"data.folder={data}"] if data is not None else ()),
        *(["data.offline=true"] if offline else ()),
        *([f"engine={engine}"] if engine is not None else ()),
    ]


def _planned(name: str, changes: Sequence[str], methods: Sequence[str] | None, seeds: int) -> list[Config]:
    """Seed by seed, so that a sweep cut short has as many of each method."""
    wanted = methods or config.load(name, changes).available_methods
    return [
        config.load(name, [*changes, f"method={method}", f"train.seed={seed}"])
        for seed in range(seeds)
        for method in wanted
    ]


def _train(
    name: str, configs: Sequence[Config], output: Path, team: Team, tensorboard: bool, restart: bool
) -> None:
    """One run after the other, a progress bar each on rank 0."""
    from pylocalreg.experiments import runs

    console = Console(quiet=team.rank > 0)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn(
            "loss {task.fields[loss]:.4g}  validation {task.fields[score]:.4g}  NFE {task.fields[nfe]:g}"
        ),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    nothing = float("nan")
    for chosen in configs:
        folder = runs.folder_of(output, Path(name).stem, chosen)
        with ProgressBar(*columns, console=console, transient=True) as bar:
            shown = bar.add_task(
                f"{chosen.method}, seed {chosen.train.seed}",
                total=chosen.train.steps,
                loss=nothing,
                score=nothing,
                nfe=nothing,
            )

            def report(progress: Progress, bar: ProgressBar = bar, shown: TaskID = shown) -> None:
                bar.update(
                    shown,
                    completed=progress.step,
                    loss=progress.loss,
                    score=progress.score,
                    nfe=progress.nfe,
                )

            record = runs.run(chosen, folder, team, report=report, tensorboard=tensorboard, restart=restart)
        console.print(_line(record, folder), soft_wrap=True)


def _line(record: Record, folder: Path) -> str:
    score = METRICS[record.metric].written(record.test_score)
    return (
        f"{record.experiment} {record.method}, seed {record.seed}: test {score}, NFE {record.test_nfe:.1f}, "
        f"trained in {record.train_seconds:.1f} s, predicts {record.prediction_batch} in "
        f"{record.prediction_seconds:.3g} s; {record.data}; {folder}"
    )


def _numbers(given: Sequence[int] | None, known: Sequence[int]) -> Sequence[int]:
    unknown = [number for number in given or () if number not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is none of {tuple(known)}", param_hint="--number")
    return given or ()
