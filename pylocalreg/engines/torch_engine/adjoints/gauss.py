"""SciMLSensitivity's GaussAdjoint: lambda alone is solved backwards; the parameters' gradient is integrated
by a Gauss-Legendre rule over each of its accepted steps, as they are made, cut at the forward solve's.
"""

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise

import numpy as np
import torch

from pylocalreg.engines.base import Problem, Trajectory
from pylocalreg.engines.torch_engine.adjoints.continuous import ContinuousAdjoint
from pylocalreg.engines.torch_engine.adjoints.quadrature import LambdaSystem
from pylocalreg.engines.torch_engine.method import Stepper
from pylocalreg.engines.torch_engine.methods import METHODS


class Gauss(ContinuousAdjoint):
    """The trajectory keeps its stages, or checkpoints to take them again from; of lambda nothing is kept."""

    def __init__(self, problem: Problem, trajectory: Trajectory) -> None:
        super().__init__(problem, trajectory)
        self.system = LambdaSystem(self.pullback, self.recall)
        # n nodes are exact to order 2n: no less than the steps themselves
        points = int(METHODS[problem.solver].order) // 2 + 1
        nodes, weights = np.polynomial.legendre.leggauss(points)
        self.kinks = sorted(trajectory.t)
        self.rule = list(zip(nodes.tolist(), weights.tolist(), strict=True))

    def advance(self, tspan: tuple[float, float], adjoint: torch.Tensor) -> torch.Tensor:
        return self.integrate(self.system, tspan, adjoint, on_step=self._add_step).outputs[0]

    def _add_step(self, start: float, end: float, stepper: Stepper) -> None:
        if not self.integral.numel():
            return
        # u(t) has its kinks at the forward solve's steps, and lambda may be constant where u is not
        first, last = min(start, end), max(start, end)
        inside = self.kinks[bisect_right(self.kinks, first) : bisect_left(self.kinks, last)]
        for low, high in pairwise([first, *inside, last]):
            half = math.copysign(high - low, start - end) / 2
            for node, weight in self.rule:
                t = low + (high - low) * (1 + node) / 2
                by_params = self.pullback.by_params(t, self.recall.at(t), stepper.interpolate(t))
                self.integral.add_(by_params, alpha=half * weight)
