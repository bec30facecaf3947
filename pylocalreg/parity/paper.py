"""The regularizer beside the paper's own code, from a checkout of LocalRegNeuralDE.jl; Julia runs it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pylocalreg.engines import get_engine
from pylocalreg.engines.base import Keep, Problem, Quantity
from pylocalreg.engines.julia_engine.problems import begin
from pylocalreg.errors import OptionError
from pylocalreg.parity.cases import Case


@dataclass(frozen=True)
class PaperComparison:
    """`LocalRegularizer.paper` on one engine against the paper's code, at a case's tau: R = EEst dt there,
    and the relative differences of dt, of R and, the largest, of its gradient; then those of the stiffness
    estimate, which the paper divides by the size of Tsit5's region of stability.
    """

    case: Case
    engine: str
    R: float
    dt: float
    value: float
    gradient: float
    stiffness: float
    stiffness_gradient: float


STABILITY_SIZE = 3.5068
"""Of Tsit5, as the paper's code has it."""


def compare_with_paper(
    cases: Sequence[Case], engines: Sequence[str], checkout: Path
) -> list[PaperComparison]:
    """The cases of Tsit5, which is what the paper's code steps with, in float64: in float32 the estimate
    of its automatic first step is rounding.

    Raises:
        OptionError: ``checkout`` is not the paper's package.
        EngineUnavailableError: there is no Julia.
    """
    if not (checkout / "src" / "perform_step.jl").is_file():
        raise OptionError(
            f"--paper {checkout}: no checkout of LocalRegNeuralDE.jl, it has no src/perform_step.jl"
        )
    code = None
    comparisons = []
    for case in cases:
        if case.solver != "Tsit5" or case.u0.dtype != torch.float64:
            continue
        module = case.dynamics()
        problem = Problem(module, (module.p,), case.tspan, case.solver, case.tol, case.tol, 1_000_000)
        torch_engine = get_engine("torch")
        solved = torch_engine.solve(problem, case.u0, [case.tau], Keep())
        u = solved.outputs[0]
        julia, _, row = begin(problem, u, at=case.tau)
        code = code or julia.call("paper_code", str(checkout))
        R, R_by_p, S, S_by_p, dt = julia.call("paper_step", code, row, case.tau, u)
        theirs = (float(R), R_by_p), (float(S) * STABILITY_SIZE, S_by_p * STABILITY_SIZE)
        for name in engines:
            comparisons.append(_compare(case, name, problem, u, module.p, theirs, float(dt)))
    return comparisons


Value = tuple[float, torch.Tensor]
"""An estimate and its gradient."""


def _compare(
    case: Case,
    name: str,
    problem: Problem,
    u: torch.Tensor,
    p: torch.Tensor,
    theirs: tuple[Value, Value],
    dt: float,
) -> PaperComparison:
    engine = get_engine(name)
    from_tau = dataclasses.replace(problem, tspan=(case.tau, case.tspan[1]))
    our_dt, _ = engine.initial_step(from_tau, case.tau, u)
    apart: list[float] = []
    quantities: tuple[Quantity, ...] = ("error", "stiffness")
    for quantity, (value, by_p) in zip(quantities, theirs, strict=True):
        with torch.enable_grad():
            ours, _ = engine.estimate(problem, quantity, case.tau, u, our_dt, "frozen")
            (our_by_p,) = torch.autograd.grad(ours, [p])
        apart.append(abs(float(ours.detach()) - value) / value)
        apart.append(float((our_by_p - by_p).abs().max() / by_p.abs().max()))
    return PaperComparison(case, name, theirs[0][0], abs(our_dt - dt) / abs(dt), *apart)
