"""Completion for bash, zsh and fish, written out whole: asking Python would wait for torch's import."""

import argparse
from collections.abc import Mapping

BASH = """\
_pylocalreg() {{
    local words="{top}"
    if [[ $COMP_CWORD -gt 1 ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}
            *) words="" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o bashdefault -o default -F _pylocalreg pylocalreg"""

ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What ``shell`` ("bash", "zsh" or "fish") is to evaluate; file names complete where no word fits."""
    words = {name: _words(command) for name, command in _commands(parser).items()}
    top = [*words, *_words(parser)]
    if shell == "fish":
        return "\n".join([*_fish("__fish_use_subcommand", top), *_fish_commands(words)])
    cases = "\n".join(f'            {name}) words="{" ".join(found)}" ;;' for name, found in words.items())
    bash = BASH.format(top=" ".join(top), cases=cases)
    return ZSH + bash if shell == "zsh" else bash


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    (action,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = action.choices
    return choices


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Options, and the values that options and arguments have to be one of."""
    actions = [one for one in parser._actions if not isinstance(one, argparse._SubParsersAction)]
    options = [name for action in actions for name in action.option_strings if name.startswith("--")]
    return [*options, *(str(choice) for action in actions for choice in action.choices or ())]


def _fish_commands(words: Mapping[str, list[str]]) -> list[str]:
    return [
        line for name, found in words.items() for line in _fish(f"__fish_seen_subcommand_from {name}", found)
    ]


def _fish(condition: str, words: list[str]) -> list[str]:
    return [
        f"complete -c pylocalreg -n '{condition}' "
        + (f"-l {word.removeprefix('--')}" if word.startswith("--") else f"-f -a {word}")
        for word in words
    ]
