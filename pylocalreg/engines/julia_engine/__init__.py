"""The Julia engine: the original SciML stack under the contract of engines/base.py."""

from pylocalreg.engines.julia_engine.engine import JuliaEngine

__all__ = ["JuliaEngine"]
