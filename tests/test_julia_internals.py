"""What LocalReg reads of the stack beyond its documented API is where it was: where it changed, by its name.

The list is julia/LocalReg/test/internals.jl.
"""

from pathlib import Path

from pylocalreg.engines.julia_engine.start import start
from tests.julia import needs_julia

INTERNALS = Path(__file__).parents[1] / "julia" / "LocalReg" / "test" / "internals.jl"


@needs_julia
def test_nothing_that_is_read_is_missing() -> None:
    main = start().main
    main.include(str(INTERNALS))
    assert list(main.seval("Internals.missing_internals()")) == []
