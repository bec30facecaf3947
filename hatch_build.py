"""Where the Julia side goes when a wheel is built."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class JuliaInsideThePackage(BuildHookInterface):  # type: ignore[type-arg]
    """juliapkg finds a juliapkg.json in a folder of sys.path or one level below: an editable install has it
    at the root of the tree, as it stands there; a wheel carries it, and LocalReg, inside the package.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            for name in ("julia/LocalReg", "juliapkg.json"):
                build_data["force_include"][name] = f"pylocalreg/{name}"
