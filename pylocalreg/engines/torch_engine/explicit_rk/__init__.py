"""Explicit Runge-Kutta methods: a tableau's numbers made into steps."""

from pylocalreg.engines.torch_engine.explicit_rk.attempt import EagerAttempt
from pylocalreg.engines.torch_engine.explicit_rk.explicit_rk import ExplicitRK

__all__ = ["EagerAttempt", "ExplicitRK"]
