"""YAML as configs need it: mappings, lists and values, once each. What can grow without end is refused."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pylocalreg.errors import ConfigError
from pylocalreg.experiments.files import read_bytes

LARGEST = 1 << 17
"""Bytes of a file; the longest packaged one has about a thousand."""
DEEPEST = 12
"""Mappings in lists in mappings ..."""


def read(path: Path) -> Any:
    """A YAML file's value.

    Raises:
        ConfigError: it can not be read, is too large, is no UTF-8 or none of our YAML.
    """
    try:
        text = read_bytes(path, LARGEST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can not be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Any:
    """The value of a YAML text; ``where`` it stands is said in the error.

    Raises:
        ConfigError: it is no YAML, has an alias or the same key twice, is nested too deeply, or a value, a
            date, say, is none.
    """
    try:
        return yaml.load(text, _Plain)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's own constructors of dates, numbers and truth values raise whatever they meet.
        raise ConfigError(f"{where[:200]} is not YAML that a config may be: {error}") from error


class _Plain(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"an alias, *{event.anchor}: write the value again")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"values nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for part, _ in node.value:
            key = self.construct_object(part, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} is no word")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} twice")
            seen.add(key)
        return super().construct_mapping(node, deep)
