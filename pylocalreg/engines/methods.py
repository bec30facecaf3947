"""What can be asked of a method, whoever runs it: the engines have the same methods by the same names."""

from pylocalreg.engines.base import Adjoint, Jacobian, Keep, KeepStages, Quantity
from pylocalreg.engines.torch_engine.adjoints import ADJOINTS
from pylocalreg.engines.torch_engine.methods import METHODS, ODE_METHODS, REGISTERED, SDE_METHODS
from pylocalreg.engines.torch_engine.rosenbrock import ROSENBROCK_TABLEAUS
from pylocalreg.engines.torch_engine.tableaus import TABLEAUS
from pylocalreg.errors import OptionError


def check_options(
    where: str,
    solver: str,
    adjoint: str,
    adaptive: bool | None,
    checkpoints: int | None,
    jacobian: Jacobian | None,
    stochastic: bool,
) -> bool:
    """As `Engine.check`, for what no engine can do; ``where`` names the engine."""
    methods, others = (SDE_METHODS, ODE_METHODS) if stochastic else (ODE_METHODS, SDE_METHODS)
    kind, other = ("SDE", "ODE") if stochastic else ("ODE", "SDE")
    if not isinstance(solver, str):
        raise OptionError(
            f"solver = {solver!r}: give a name, as a string, or pylocalreg.julia.algorithm(...)"
        )
    if solver in others:
        raise OptionError(
            f"solver {solver!r} solves {other}s: take Neural{other}, or one of {sorted(methods)}"
        )
    if solver not in methods:
        raise OptionError(
            f"solver {str(solver)!r} is not in the {where}: for {kind}s it has {sorted(methods)}; "
            "engine='julia' has every algorithm of the stack"
        )
    check_choices(where, adjoint, jacobian)
    method = METHODS[solver]
    adaptive = choose_adaptive(solver, adaptive, "error" in method.estimates)
    if checkpoints is not None and not method.one_step and adjoint != "backsolve":
        raise OptionError(
            f"checkpoints = {checkpoints}: a step of {solver} depends on the steps before it and can not "
            f"be taken again from a checkpoint, as adjoint={adjoint!r} would; leave checkpoints out"
        )
    if jacobian is not None and not method.takes_jacobian:
        able = sorted(name for name, other in METHODS.items() if other.takes_jacobian)
        raise OptionError(
            f"jacobian={jacobian!r}: {solver} takes no Jacobian; leave it out, or choose a solver of {able}"
        )
    return adaptive


def choose_adaptive(solver: str, adaptive: bool | None, has_estimate: bool) -> bool:
    """Whether the steps are adaptive: what is asked, or what the method can.

    Raises:
        OptionError: they are to be, and the method has no estimate.
    """
    if adaptive and not has_estimate:
        raise OptionError(
            f"adaptive=True: {solver} has no error estimate to choose its steps by; give dt and leave "
            "adaptive out"
        )
    return has_estimate if adaptive is None else adaptive


def check_choices(where: str, adjoint: str, jacobian: Jacobian | None) -> None:
    """Raise `OptionError` for an adjoint or a Jacobian that does not exist."""
    for name, value in (("adjoint", adjoint), ("jacobian", jacobian or "system")):
        if not isinstance(value, str):
            raise OptionError(f"{name} = {value!r}: give a name, as a string")
    if adjoint not in ADJOINTS:
        raise OptionError(f"adjoint {adjoint!r} is not in the {where}: it has {sorted(ADJOINTS)}")
    if jacobian not in (None, "system", "per_sample"):
        raise OptionError(f"jacobian={jacobian!r} does not exist: choose 'system' or 'per_sample'")


def check_compile(engine: str, solver: str) -> None:
    """Raise `OptionError` where there are no steps that ``compile=True`` could compile."""
    able = sorted([*TABLEAUS, *ROSENBROCK_TABLEAUS])
    if engine != "torch" or solver not in able:
        raise OptionError(
            f"compile=True: engine={engine!r} with solver={str(solver)!r} has no steps to compile; leave it "
            f"out, or take engine='torch' and one of {able}"
        )


def check_keep_stages(
    keep_stages: KeepStages,
    engine: str,
    solver: str,
    adjoint: str,
    checkpoints: int | None,
    compile: bool,
    dense_chain: bool,
) -> None:
    """Raise `OptionError` where nothing of the stages could be kept; ``dense_chain`` says that Dense layers
    are what is solved.
    """
    if not isinstance(keep_stages, bool) and keep_stages != "auto":
        raise OptionError(f"keep_stages = {keep_stages!r}: give True, False or 'auto'")
    if not keep_stages:
        return
    able = sorted(TABLEAUS)
    if solver not in able or adjoint != "discrete":
        raise OptionError(
            f"keep_stages={keep_stages!r}: solver={str(solver)!r}, adjoint={str(adjoint)!r} keep no stages "
            f"for a gradient; take adjoint='discrete' and one of {able}"
        )
    if engine == "julia" and not dense_chain:
        raise OptionError(
            f"keep_stages={keep_stages!r}: engine='julia' keeps the stages of descriptions of Dense layers, "
            "by themselves and with no integral beside the state; leave it out, or take engine='torch'"
        )
    if checkpoints is not None or compile:
        other = "compile=True" if compile else f"checkpoints={checkpoints}"
        raise OptionError(f"keep_stages={keep_stages!r} and {other}: take one of them")


def check_estimate(solver: str, quantity: Quantity) -> None:
    """As `Engine.check_estimate`."""
    if quantity not in METHODS[solver].estimates:
        methods = SDE_METHODS if is_stochastic(solver) else ODE_METHODS
        able = sorted(name for name, method in methods.items() if quantity in method.estimates)
        raise OptionError(f"{solver} has no {quantity} estimate: the methods that have one are {able}")


def keep_for(adjoint: Adjoint, checkpoints: int | None) -> Keep:
    """As `Engine.keep_for`."""
    restarts = adjoint == "backsolve"
    if checkpoints is not None:
        return Keep(checkpoints, restarts=restarts)
    if restarts:
        return Keep("end", restarts=True)
    return Keep("all", stages=adjoint != "discrete")


def is_stochastic(solver: str) -> bool:
    """Whether the solver is one of SDEs."""
    return solver in SDE_METHODS


__all__ = [
    "ADJOINTS",
    "METHODS",
    "ODE_METHODS",
    "REGISTERED",
    "SDE_METHODS",
    "check_choices",
    "check_compile",
    "check_estimate",
    "check_keep_stages",
    "check_options",
    "choose_adaptive",
    "is_stochastic",
    "keep_for",
]
