"""The last steps before a stop."""

import math

from pylocalreg.engines.torch_engine.controller import Scalar

STRETCH = 1.1
"""What a step may be longer than its controller proposes: its EEst is then about 1, where gamma is 0.9."""


def evened(step: Scalar, distance: Scalar, dtmin: Scalar, dtmax: Scalar) -> Scalar:
    """The step to take at ``distance`` from a stop, so that no much smaller one remains before it: the whole
    distance, or half of it.
    """
    most = min(step * type(step)(STRETCH), dtmax)
    steps = math.ceil(distance / most)
    if steps > 2 or step >= distance or distance / 2 <= dtmin:
        return step
    return distance / type(distance)(steps)
