"""The module a user builds a model from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from pylocalreg.checks import check_inputs
from pylocalreg.compilation import uncompiled
from pylocalreg.compiled_steps import CompiledSteps
from pylocalreg.controllers import ControllerChoice
from pylocalreg.dynamics import Function, Layer, Layers, WithInputs, as_module, is_dense_chain
from pylocalreg.engines.algorithm import Sensitivity
from pylocalreg.engines.base import Adjoint, Jacobian, KeepStages, Landing
from pylocalreg.engines.methods import check_compile, check_keep_stages
from pylocalreg.errors import OptionError
from pylocalreg.events import Event, Events, check_events
from pylocalreg.last_call import LastCall, can_be_kept
from pylocalreg.neural_de import NeuralDE, check_written
from pylocalreg.observed.reached import vmapping
from pylocalreg.precision import at_the_door, full_precision
from pylocalreg.regularizers import Regularizer
from pylocalreg.regularizers.base import check_joining
from pylocalreg.solution import Solution
from pylocalreg.states import State, device_of, layout_of, mapped
from pylocalreg.step_options import Tstops

_NONE: tuple[torch.Tensor, ...] = ()


def compile(node: "NeuralODE") -> "NeuralODE":
    """The node itself, from now on with ``compile=True``.

    Raises:
        OptionError: it has no steps to compile.
    """
    if not isinstance(node, NeuralODE):
        raise OptionError(f"plr.compile takes a NeuralODE, not a {type(node).__name__}")
    check_compile(node.engine.name, node.solver)
    check_keep_stages(
        node.keep_stages,
        node.engine.name,
        node.solver,
        node.adjoint,
        node.checkpoints,
        compile=True,
        dense_chain=False,
    )
    node.compiled = CompiledSteps()
    return node


class NeuralODE(NeuralDE):
    """du/dt = f(t, u), solved over ``tspan`` from the state it is called with.

    Args:
        dynamics: a layer description (`Chain`, `TimeDependent`, a bare `Dense`), a ``torch.nn.Module`` or any
            callable ``f(t, u)`` with ``t`` a scalar tensor, that gives du/dt of ``u``'s shape, dtype and
            device; one that takes a single argument is given ``u``. What of PyTorch they may do beside is in
            docs/pytorch.md: tensors they reach get their gradients, random numbers are drawn once a solve.
        tspan: start and end; an end before the start solves backwards in time. Tensors that want a gradient
            get it; parameters become this module's.
        solver: the method by the stack's name. Those of the embedded engine are the same in both; with
            ``engine="julia"`` any algorithm of the stack's, by its name or by ``plr.julia.algorithm``.
        abstol, reltol: tolerances of the error norm rms(e / (abstol + max(|u|, |u_new|) reltol)), taken
            over every element of the batch.
        adjoint: ``"discrete"``: the exact gradient of the steps taken. The others solve the adjoint equation
            backwards and are right to about the tolerances: ``"interpolating"``, ``"gauss"`` and
            ``"quadrature"`` with u(t) by dense output, ``"backsolve"`` with u(t) solved backwards too, anew
            from each time of ``saveat``.
        checkpoints: about how many states the forward solve keeps for the adjoint, in place of all (or for
            ``"backsolve"``, of the end alone); the steps between them are taken again. Twice the square root
            of the number of steps needs the least memory.
        regularizer: what ``solution.regularization`` is; None for nothing.
        saveat: times of the states in ``solution.u``, several may be equal; by default the end of ``tspan``
            alone. Tensors that want a gradient get it.
        engine: ``"auto"``, ``"torch"`` or ``"julia"``.
        dt: the first step; automatic by default. With fixed steps, the size of all. ``"last"``: in training
            mode that of the last such solve, as its error estimate says it should have been, which saves the
            two evaluations of the automatic one and the small steps after it; it is in the ``state_dict``.
        adaptive: whether the steps' sizes follow the error estimate; by default they do where the method has
            one (Euler and RK4 have none). Fixed steps are never rejected.
        maxiters: steps tried before `StepLimitError`.
        dtmin, dtmax: bounds of the steps' sizes. A step that would have to be shorter than dtmin is a
            `StepUnderflowError`; one that a tstop or the end cuts short may be.
        tstops: times in the span at which steps end, in any order, say those at which the dynamics jump: the
            steps to either side then see the values of their own side alone, whether the dynamics compare
            with ``<`` or ``<=``. The multistep methods keep the slopes of earlier steps.
        gamma, qmin, qmax, beta1, beta2, qsteady_min, qsteady_max: constants of the step size controller,
            dt_next = dt / q with q = EEst^beta1 / EEst_old^beta2 / gamma, clipped to [1/qmax, 1/qmin] (after
            the first step to [1/10000, 1/qmin]); dt stays where q is in [qsteady_min, qsteady_max]. By
            default the method's own in the stack.
        controller: what chooses the steps' sizes: ``"PI"``, the stack's default; ``"I"`` or ``"PID"``, or a
            `PIDController` with coefficients, by the stack's formulas; or a class or function of your own
            that makes a controller for each solve (docs/steps.md). For ``engine="torch"``.
        landing: ``"cut"``: the step that would pass a tstop or the end is cut short there, as in the stack.
            ``"even"``: the last two before it are of one size, or the last is up to a tenth longer than
            proposed, so that no sliver remains. For ``engine="torch"``.
        progress: a bar on stderr that follows each forward solve: share of the span, steps, calls of the
            dynamics, step size. Needs tqdm (``pip install 'pylocalreg[progress]'``).
        jacobian: for the stiff solvers (Rodas5, Rodas5P, Rosenbrock23), which need df/du. ``"system"`` (what
            they take by default): of all elements of the state. ``"per_sample"``: one block for each entry of
            the state's first dimension, a batch of small systems in place of a large one. The samples are
            then assumed not to depend on each other (batch norm in training mode makes them): where they do,
            steps lose their order and the gradient is not exact. Not for states that are tuples or dicts.
        params: tensors that want a gradient and that the dynamics reach at some times alone; all others are
            found at the first call.
        solve_options: more options of the solve, by the stack's own names, as ``{"force_dtmin": True}``; for
            ``engine="julia"``. Their values are numbers, truth values, times, or what `pylocalreg.julia`
            makes. docs/julia.md says which are left to pylocalreg.
        event: an `Event`, or several: where a condition crosses zero the solve ends, or the state changes.
        compile: fuse what a step does beside the dynamics, and the dynamics with it where they can be
            traced; on a GPU record it as a CUDA graph. For the explicit Runge-Kutta methods of the embedded
            engine, and for Rosenbrock methods on small systems. The same steps within rounding;
            docs/speed.md says what it takes and when it falls back.
        keep_stages: keep what the pullbacks of the calls of f need, so that the discrete adjoint takes no
            step again: a training step makes no second evaluations, for the memory of all of them.
            ``"auto"`` keeps those of the first steps, up to 256 MiB; of the first alone where ``torch.func``
            in f does not tell what it keeps. For the explicit Runge-Kutta methods that both engines have;
            with ``engine="julia"`` for descriptions of Dense layers. The same gradients; docs/memory.md.
        callback: refused: the stack's name for what `Event` is here.

    Raises:
        TimeSpanError, ToleranceError, SaveAtError, OptionError, EngineUnavailableError: at construction.
    """

    def __init__(
        self,
        dynamics: Layers | Layer | torch.nn.Module | Function,
        tspan: Sequence[float | torch.Tensor] | torch.Tensor = (0.0, 1.0),
        *,
        solver: str = "Tsit5",
        abstol: float = 1e-6,
        reltol: float = 1e-6,
        adjoint: Adjoint | Sensitivity = "discrete",
        checkpoints: int | None = None,
        regularizer: Regularizer | None = None,
        saveat: Sequence[float] | torch.Tensor | None = None,
        engine: str = "auto",
        dt: float | Literal["last"] | None = None,
        adaptive: bool | None = None,
        maxiters: int = 1_000_000,
        dtmin: float | None = None,
        dtmax: float | None = None,
        tstops: Tstops = (),
        controller: ControllerChoice = "PI",
        landing: Landing = "cut",
        gamma: float | None = None,
        qmin: float | None = None,
        qmax: float | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        qsteady_min: float | None = None,
        qsteady_max: float | None = None,
        progress: bool = False,
        jacobian: Jacobian | None = None,
        params: Sequence[torch.Tensor] = (),
        solve_options: Mapping[str, Any] | None = None,
        event: Event | Sequence[Event] | None = None,
        compile: bool = False,
        keep_stages: KeepStages = False,
        callback: None = None,
    ) -> None:
        if callback is not None:
            raise OptionError(
                f"callback = {callback!r}: give event=plr.Event(condition, affect), which both engines have"
            )
        module = as_module(dynamics)
        super().__init__(
            tspan,
            solver=solver,
            adjoint=adjoint,
            abstol=abstol,
            reltol=reltol,
            checkpoints=checkpoints,
            regularizer=regularizer,
            saveat=saveat,
            engine=engine,
            dt=dt,
            adaptive=adaptive,
            maxiters=maxiters,
            params=params,
            tstops=tstops,
            controller=controller,
            landing=landing,
            progress=progress,
            step_options={
                "dtmin": dtmin,
                "dtmax": dtmax,
                "gamma": gamma,
                "qmin": qmin,
                "qmax": qmax,
                "beta1": beta1,
                "beta2": beta2,
                "qsteady_min": qsteady_min,
                "qsteady_max": qsteady_max,
            },
            jacobian=jacobian,
            solve_options=solve_options,
            compile=compile,
            keep_stages=keep_stages,
            dense_chain=is_dense_chain(module),
        )
        self.dynamics = module
        check_written(self.engine, self.dynamics)
        self.events = torch.nn.ModuleList(check_events(event))
        if self.events and regularizer is not None:
            check_joining(regularizer)
        self._last_call: LastCall | None = None

    def extra_repr(self) -> str:
        return (
            f"tspan={self.tspan}, solver={self.solver!r}, abstol={self.abstol:g}, reltol={self.reltol:g}, "
            f"adjoint={self.adjoint!r}, engine={self.engine.name!r}, regularizer={self.regularizer}"
        )

    @uncompiled
    def forward(
        self,
        u0: State,
        *,
        inputs: Sequence[torch.Tensor] | torch.Tensor = _NONE,
        saveat: Sequence[float] | torch.Tensor | None = None,
        dense: bool = False,
        regularize: bool | None = None,
    ) -> Solution:
        """Solve from ``u0``, a float32 or float64 tensor of any shape, or a tuple or dict of such tensors;
        the dynamics get and give, and the solution holds, the same.

        Args:
            inputs: tensors that stay constant along the solve (input injection): the dynamics are then called
                as ``f(t, u, *inputs)``, and gradients reach the inputs.
            saveat: in place of the module's own.
            dense: keep every stage, so that the solution can be called at any time.
            regularize: whether to compute the regularizer; in training mode only by default.

        Raises:
            ShapeError, DtypeError, DeviceError, ToleranceError: before the solve.
            OptionError: inputs with ``jacobian="per_sample"``, or not those a layer description takes.
            JacobianError: the dynamics have no derivative that a stiff solver can take.
            NonFiniteError, StepUnderflowError, StepLimitError: where the solve can not go on.
            ChangedError: in the backward pass, parameters are not what they were.
        """
        given_nothing = saveat is None and regularize is None and dense is False and inputs is _NONE
        settings, last = self._settings, self._last_call
        if given_nothing and last is not None and last.was(self, settings, u0):
            return self._solve_again(last, u0)
        given, u0 = u0, mapped(u0, at_the_door)
        layout = layout_of(u0)
        inputs = tuple(at_the_door(x) for x in check_inputs(inputs))
        with full_precision(device_of(u0)):
            packed = layout.pack(u0)
            self._check_samples(u0, inputs)
            times = self._times(saveat, packed.dtype)
            dynamics = self.dynamics
            named = (*dynamics.parameters(), *inputs)
            called = layout.dynamics(WithInputs(dynamics, inputs) if inputs else dynamics)
            problem = self._problem(packed, times, [called], named)
            events = Events([*self.events], layout) if self.events else None
            if events is not None and vmapping():
                raise OptionError(
                    "events inside torch.func.vmap: each sample has its own; solve them one by one"
                )
            solution = self._solve(
                problem, packed, times, layout.unpack, dense=dense, regularize=regularize, events=events
            )
        if given_nothing and can_be_kept(self, given):
            self.__dict__["_last_call"] = LastCall(settings, self, given, problem, times)
        return solution

    def _solve_again(self, last: LastCall, u0: Any) -> Solution:
        """As the last call, from another state like its own."""
        problem = last.problem
        dt = self._first_dt(problem.tspan)
        if self.regularizer is None or not self.training:
            solution = last.repeated(self._engine_on(u0.device), u0, dt)
            if solution is not None:
                self._observe(solution.steps)
                return solution
        if dt != problem.dt:
            problem = dataclasses.replace(problem, dt=dt)
        with full_precision(u0.device):
            packed = at_the_door(u0).contiguous()
            return self._solve(problem, packed, last.times, _as_it_is, dense=False, regularize=None)

    def _check_samples(self, u0: State, inputs: Sequence[torch.Tensor]) -> None:
        if self.jacobian != "per_sample":
            return
        if not isinstance(u0, torch.Tensor) or u0.ndim == 0:
            got = "a state of no dimension" if isinstance(u0, torch.Tensor) else f"a {type(u0).__name__}"
            raise OptionError(
                f"jacobian='per_sample': {got} has no first dimension of samples; take jacobian='system'"
            )
        if inputs:
            raise OptionError(
                f"jacobian='per_sample' with {len(inputs)} inputs: a sample's block would see the inputs of "
                "all samples; take jacobian='system'"
            )


def _as_it_is(u: torch.Tensor) -> torch.Tensor:
    return u
