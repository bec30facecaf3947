"""Variable-coefficient Adams methods: a step made of this and earlier steps' slopes."""

from pylocalreg.engines.torch_engine.adams.adams import VCAB3, VCABM3

__all__ = ["VCAB3", "VCABM3"]
