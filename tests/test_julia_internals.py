"""What LocalReg reads of the stack beyond its documented API is where it was: where it changed, by its name.

The list is julia/LocalReg/test/internals.jl.
"""

import functools
from pathlib import Path
from typing import Any

from pylocalreg.engines.julia_engine.start import start
from tests.julia import needs_julia

INTERNALS = Path(__file__).parents[1] / "julia" / "LocalReg" / "test" / "internals.jl"


pytestmark = needs_julia


@functools.cache
def internals() -> Any:
    main = start().main
    main.include(str(INTERNALS))
    return main.Internals


def test_nothing_that_is_read_is_missing() -> None:
    assert list(internals().missing_internals()) == []


def test_whatever_a_stack_lacks_is_named() -> None:
    """Of each name and field of the list, one that lacks it alone."""
    changed = list(internals().said_of_changed_stacks())
    assert len(changed) > 80
    for lacking, said in changed:
        assert any(one.endswith(f"has no {lacking}") for one in said)
