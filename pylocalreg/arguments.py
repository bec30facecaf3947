"""What the commands' parsers are made of, all of it argparse's."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(commands: Commands, run: Callable[..., None]) -> argparse.ArgumentParser:
    """A command of ``run``'s name and docstring; ``run`` is called with its options by name."""
    about = run.__doc__ or ""
    made = commands.add_parser(
        run.__name__.replace("_", "-"),
        help=about.partition("\n")[0],
        description=about,
        formatter_class=_Help,
    )
    made.set_defaults(run=run)
    return made


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are shown where there is one: an option without has None, a switch False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, False, "", argparse.SUPPRESS)
        return super()._get_help_string(action) if shown else action.help


def at_least(low: int) -> Callable[[str], int]:
    """The type of a whole number with a lower bound."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {low}")
        return value

    return number
