"""The embedded PyTorch engine."""

from pylocalreg.engines.torch_engine.engine import TorchEngine

__all__ = ["TorchEngine"]
