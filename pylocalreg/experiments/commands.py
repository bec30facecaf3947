"""The experiments' commands: `demo`, `digits-sde`, `train`, `sweep`, `table` and `figure`.

Their options are said here and need nothing; what runs them is imported when they run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pylocalreg.arguments import Commands, at_least, command
from pylocalreg.errors import OptionError

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID

    from pylocalreg.experiments.config import Config
    from pylocalreg.experiments.distributed import Team
    from pylocalreg.experiments.records import Record
    from pylocalreg.experiments.train import Progress

RUNS, PRINTED = Path("results/runs"), Path("results")
PICTURES = (".png", ".pdf", ".svg")


def add(commands: Commands) -> None:
    """Make them commands of ``commands``."""
    options = command(commands, demo)
    options.add_argument(
        "--output", type=Path, default=Path("results/demo.png"), help="where the picture goes"
    )
    _records(options, "results/demo.jsonl")
    options.add_argument("--steps", type=at_least(1), default=160, help="training steps a model")
    options.add_argument("--seeds", type=at_least(1), default=3, help="runs of each model")
    options.add_argument(
        "--seed", type=int, default=0, help="the first seed of split, weights, batches and sampled times"
    )
    options.add_argument("--engine", default="torch", help="auto, torch or julia")

    options = command(commands, digits_sde)
    _records(options, "results/digits-sde.jsonl")
    options.add_argument("--seeds", type=at_least(1), default=5, help="runs of each model")
    options.add_argument("--steps", type=at_least(1), default=240, help="training steps a model")
    options.add_argument("--engine", default="torch", help="auto, torch or julia")

    options = command(commands, train)
    options.add_argument("name", metavar="CONFIG", help="a packaged config's name, or a YAML file")
    options.add_argument("--method", help="in place of the config's")
    options.add_argument("--seed", type=at_least(0), help="in place of the config's")
    _training(options)

    options = command(commands, sweep)
    options.add_argument("names", nargs="+", metavar="CONFIG", help="as in train, one or more")
    options.add_argument(
        "--method", action="append", help="once for each method; all of the config's by default"
    )
    options.add_argument(
        "--seeds", type=at_least(1), default=3, help="runs of each method, of seeds 0, 1, ..."
    )
    _training(options)

    for printed, numbers, files in (
        (table, "2 to 6", "table-N.md and .tex"),
        (figure, "1 to 10", "figure-N"),
    ):
        options = command(commands, printed)
        options.add_argument(
            "folders", nargs="+", type=Path, metavar="RUNS", help="folders with runs, at any depth"
        )
        options.add_argument(
            "--number", action="append", type=int, help=f"{numbers}; by default all that have runs"
        )
        options.add_argument("--output", type=Path, default=PRINTED, help=f"where {files} go")
        options.add_argument("--paper", type=Path, help="the paper's numbers, in place of the packaged")


def _records(options: argparse.ArgumentParser, default: str) -> None:
    options.add_argument(
        "--records", type=Path, default=Path(default), help="where the runs' numbers go, a line of JSON each"
    )


def _training(options: argparse.ArgumentParser) -> None:
    """What `train` and `sweep` share."""
    options.add_argument(
        "--set",
        dest="changes",
        action="append",
        metavar="KEY=VALUE",
        help="a change of the config: train.steps=100, say; again for more",
    )
    options.add_argument("--output", type=Path, default=RUNS, help="where runs go: CONFIG/METHOD/seed-SEED")
    options.add_argument("--data", type=Path, metavar="FOLDER", help="folder of the data set's files")
    options.add_argument("--offline", action="store_true", help="a small stand-in for the data; no download")
    options.add_argument("--engine", help="auto, torch or julia")
    options.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    options.add_argument("--compile", action="store_true", help="compiled steps; CUDA graphs on a GPU")
    options.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files too")
    options.add_argument(
        "--restart", action="store_true", help="start over where the folder holds another run"
    )


def demo(output: Path, records: Path, steps: int, seeds: int, seed: int, engine: str) -> None:
    """Train a digits classifier without and with local regularization; about a minute."""
    if output.suffix.lower() not in PICTURES:
        raise OptionError(f"--output {output}: the picture is a file that ends in one of {PICTURES}")
    from rich.console import Console

    from pylocalreg.experiments import demo

    demo.run(output, records, steps, range(seed, seed + seeds), engine, Console())


def digits_sde(records: Path, seeds: int, steps: int, engine: str) -> None:
    """Train a neural SDE on digits without and with local regularization; about ten minutes."""
    from rich.console import Console

    from pylocalreg.experiments import digits_sde

    digits_sde.run(records, seeds, steps, engine, Console())


@dataclass(frozen=True)
class Training:
    """What `train` and `sweep` share: the options of `_training`."""

    changes: Sequence[str] | None
    output: Path
    data: Path | None
    offline: bool
    engine: str | None
    device: str
    compile: bool
    tensorboard: bool
    restart: bool

    @property
    def config_changes(self) -> list[str]:
        return config_changes(self.changes, self.data, self.offline, self.engine)


def train(name: str, method: str | None, seed: int | None, **options: Any) -> None:
    """Train one model, or go on where an earlier call was stopped."""
    from pylocalreg.experiments import config
    from pylocalreg.experiments.distributed import joined

    training = Training(**options)
    given = [f"method={method}"] if method is not None else []
    given += [f"train.seed={seed}"] if seed is not None else []
    chosen = config.load(name, [*training.config_changes, *given])
    with joined(training.device) as team:
        _train(name, [chosen], training, team)


def sweep(names: Sequence[str], method: Sequence[str] | None, seeds: int, **options: Any) -> None:
    """Train every method from several seeds; what is done already is not done again."""
    from pylocalreg.experiments.distributed import joined

    training = Training(**options)
    # All configs are read before the first run starts: a mistake in the last one is found now.
    planned = {name: _planned(name, training.config_changes, method, seeds) for name in names}
    with joined(training.device) as team:
        for name, configs in planned.items():
            _train(name, configs, training, team)


def table(folders: Sequence[Path], number: Sequence[int] | None, output: Path, paper: Path | None) -> None:
    """Print the paper's tables from finished runs, beside the paper's numbers; write Markdown and LaTeX."""
    from pylocalreg.experiments import files, records, tables
    from pylocalreg.experiments import paper as paper_numbers

    found, numbers = records.load_all(folders), paper_numbers.load(paper)
    for wanted in _numbers(number, tuple(tables.TABLES)) or tables.printable(found):
        sections = tables.table(wanted, found, numbers)
        text = tables.markdown(wanted, sections)
        print(text)
        files.write_text(output / f"table-{wanted}.md", text)
        files.write_text(output / f"table-{wanted}.tex", tables.latex(wanted, sections))


def figure(folders: Sequence[Path], number: Sequence[int] | None, output: Path, paper: Path | None) -> None:
    """Draw the figures from finished runs, as PNG and PDF."""
    from pylocalreg.experiments import figures, records
    from pylocalreg.experiments import paper as paper_numbers

    found, numbers = records.load_all(folders), paper_numbers.load(paper)
    for wanted in _numbers(number, figures.FIGURES) or figures.drawable(found):
        for path in figures.draw(wanted, found, output, numbers):
            print(path)


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
    from pylocalreg.experiments import config

    wanted = methods or config.load(name, changes).available_methods
    return [
        config.load(name, [*changes, f"method={method}", f"train.seed={seed}"])
        for seed in range(seeds)
        for method in wanted
    ]


def _train(name: str, configs: Sequence[Config], training: Training, team: Team) -> None:
    """One run after the other, a progress bar each on rank 0."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as ProgressBar

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
        folder = runs.folder_of(training.output, Path(name).stem, chosen)
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

            record = runs.run(
                chosen,
                folder,
                team,
                report=report,
                tensorboard=training.tensorboard,
                restart=training.restart,
                compiled=training.compile,
            )
        console.print(_line(record, folder), soft_wrap=True)


def _line(record: Record, folder: Path) -> str:
    from pylocalreg.experiments.metrics import METRICS

    score = METRICS[record.metric].written(record.test_score)
    return (
        f"{record.experiment} {record.method}, seed {record.seed}: test {score}, NFE {record.test_nfe:.1f}, "
        f"trained in {record.train_seconds:.1f} s, predicts {record.prediction_batch} in "
        f"{record.prediction_seconds:.3g} s; {record.data}; {folder}"
    )


def _numbers(given: Sequence[int] | None, known: Sequence[int]) -> Sequence[int]:
    unknown = [number for number in given or () if number not in known]
    if unknown:
        raise OptionError(f"--number {unknown[0]} is none of {tuple(known)}")
    return given or ()
