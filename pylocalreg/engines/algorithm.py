"""An algorithm of the SciML stack as data: a name with its own arguments, Julia code, or a Julia object."""

from typing import TYPE_CHECKING, Any

from pylocalreg.engines.packages import OWNERS, PACKAGES

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Algorithm(str):
    """A solver of the Julia engine's. As a string it is what errors and logs show of it.

    Two are equal where they show the same. `pylocalreg.julia.algorithm` makes and checks them.

    Attributes:
        row: what LocalReg's `argument` (host/algorithms.jl) makes the algorithm of.
    """

    row: tuple[Any, ...]

    def __new__(cls, shown: str, row: tuple[Any, ...]) -> "Self":
        self = super().__new__(cls, shown)
        self.row = row
        return self

    def __getnewargs__(self) -> tuple[str, tuple[Any, ...]]:  # type: ignore[override]
        return str(self), self.row

    @classmethod
    def named(
        cls, shown: str, name: str, args: tuple[Any, ...] = (), options: tuple[tuple[str, Any], ...] = ()
    ) -> "Self":
        """The one that a package of the stack has by ``name``, with arguments as rows."""
        package = OWNERS.get(name, "")
        uuid = PACKAGES[package].uuid if package else ""
        return cls(shown, ("name", name, package, uuid, args, options))


class Sensitivity(Algorithm):
    """An adjoint of SciMLSensitivity's own, as `pylocalreg.julia.adjoint` makes it."""

    @property
    def name(self) -> str:
        """Its name in the package."""
        return str(self.row[1])

    @property
    def traces(self) -> bool:
        """Whether it looks into the dynamics, and does not take their own pullback."""
        by = dict(self.row[5]).get("autojacvec")
        return not (isinstance(by, tuple) and by[1] == "ZygoteVJP")
