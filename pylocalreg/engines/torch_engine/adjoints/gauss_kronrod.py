"""Adaptive quadrature of a vector-valued function, as QUADPACK's QAG and Julia's QuadGK do it."""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from pylocalreg.errors import StepLimitError

# R. Piessens et al., QUADPACK (1983): the 15-point Kronrod extension of the 7-point Gauss rule, on [-1, 1].
# Every second node, from the second on, is the Gauss rule's.
NODES = (
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144691258415,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.0,
)
KRONROD = (
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
)
GAUSS = (
    0.129484966168869693270611432679082,
    0.279705391489276667901467771423780,
    0.381830050505118944950369775488975,
    0.417959183673469387755102040816327,
)
MAX_PANELS = 10_000
KINKS_A_PANEL = 8
ROUNDINGS = 50  # QUADPACK's: an error of so many roundings of the integral of |f| can not be made smaller

Integrand = Callable[[float], torch.Tensor]


def gauss_kronrod(
    f: Integrand, low: float, high: float, kinks: Sequence[float], abstol: float, reltol: float
) -> torch.Tensor:
    """Integral of ``f`` from ``low`` to ``high``: the panel with the largest error is parted until their sum
    is below max(abstol, reltol |integral|), in the Euclidean norm, or no more than rounding.

    ``kinks`` are in rising order; between two of them ``f`` is smooth. The first panels end at every eighth:
    where a solver's steps crowd, ``f`` has what one rule over all of the span would pass over unseen. A
    panel is parted at the kink nearest to its middle, or where it has none, in the middle.

    Raises:
        StepLimitError: the tolerance is not met with 10,000 panels.
    """
    inside = kinks[bisect_right(kinks, low) : bisect_left(kinks, high)]
    ends = [low, *inside[KINKS_A_PANEL - 1 :: KINKS_A_PANEL], high]
    panels = [_Panel(f, *pair) for pair in pairwise(ends)]
    heapq.heapify(panels)
    total = sum((panel.integral for panel in panels[1:]), panels[0].integral)
    while (error := sum(panel.error for panel in panels)) > max(
        abstol,
        reltol * float(torch.linalg.vector_norm(total)),
        ROUNDINGS * torch.finfo(total.dtype).eps * sum(panel.size for panel in panels),
    ):
        if len(panels) >= MAX_PANELS:
            raise StepLimitError(
                f"{MAX_PANELS} panels leave an error of {error:.3g} in the integral of the parameters' "
                f"gradient from {low:.6g} to {high:.6g}: loosen abstol = {abstol:g} and reltol = {reltol:g}, "
                "or take adjoint='gauss'"
            )
        worst = heapq.heappop(panels)
        middle = (worst.low + worst.high) / 2
        inside = kinks[bisect_right(kinks, worst.low) : bisect_left(kinks, worst.high)]
        cut = min(inside, key=lambda kink: abs(kink - middle), default=middle)
        left, right = _Panel(f, worst.low, cut), _Panel(f, cut, worst.high)
        total = total + (left.integral + right.integral - worst.integral)
        heapq.heappush(panels, left)
        heapq.heappush(panels, right)
    return total


class _Panel:
    """The Kronrod rule's integral, its distance from the Gauss rule's, and the integral of |f|."""

    def __init__(self, f: Integrand, low: float, high: float) -> None:
        self.low, self.high = low, high
        centre, half = (low + high) / 2, (high - low) / 2
        at_centre = f(centre)
        kronrod, gauss = at_centre * KRONROD[-1], at_centre * GAUSS[-1]
        size = KRONROD[-1] * torch.linalg.vector_norm(at_centre)
        for i, (node, weight) in enumerate(zip(NODES[:-1], KRONROD[:-1], strict=True)):
            for sign in (-1, 1):
                value = f(centre + sign * half * node)
                kronrod.add_(value, alpha=weight)
                size += weight * torch.linalg.vector_norm(value)
                if i % 2:
                    gauss.add_(value, alpha=GAUSS[i // 2])
        self.integral = kronrod * half
        self.error = float(torch.linalg.vector_norm(kronrod - gauss)) * half
        self.size = float(size) * half

    def __lt__(self, other: "_Panel") -> bool:
        return self.error > other.error  # the heap's first is the worst
