"""Neural stochastic differential equations: the module a user builds a model from."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch

from pylocalreg.brownian import BrownianPath
from pylocalreg.checks import check_count
from pylocalreg.compilation import uncompiled
from pylocalreg.controllers import ControllerChoice
from pylocalreg.dynamics import Layer, Layers, as_module
from pylocalreg.engines.base import Dynamics, Landing
from pylocalreg.errors import DeviceError, DtypeError, OptionError, ShapeError, TimeSpanError
from pylocalreg.julia.models import JuliaModel, is_julia
from pylocalreg.neural_de import NeuralDE, check_written
from pylocalreg.observed.reached import vmapping
from pylocalreg.precision import at_the_door, full_precision
from pylocalreg.regularizers import Regularizer
from pylocalreg.regularizers.base import check_generator, choose, draw_seed
from pylocalreg.solution import Solution
from pylocalreg.states import State, device_of, layout_of, mapped
from pylocalreg.step_options import Tstops

Noise = Literal["diagonal", "additive", "scalar"]
AdditiveDiffusion = Callable[[torch.Tensor], torch.Tensor]
"""``g(t)``, ``t`` a scalar tensor, gives a tensor that broadcasts to the state's shape."""


class NeuralSDE(NeuralDE):
    """du = f(t, u) dt + g(t, u) dW, solved over ``tspan`` from the state it is called with.

    Whose stochastic integral dW is depends on the method: Ito's for SOSRI, SOSRI2, SRIW1 (strong order 1.5),
    RKMilCommute (1.0) and EM (0.5, fixed steps); Stratonovich's for LambaEulerHeun and EulerHeun (fixed
    steps), of order 1.0 for these kinds of noise. With additive noise the two are the same. Diagonal noise
    reaches the orders above 0.5 where an element's diffusion depends on that element alone.

    Args:
        drift: f, as `NeuralODE` takes its dynamics.
        diffusion: g, likewise, of the state's shape. For additive noise a module or a callable ``g(t)`` that
            gives a tensor which broadcasts to the state's shape.
        tspan: start and end, in this order in time.
        solver: the method by the stack's name.
        noise: ``"diagonal"``: each element has a Wiener process of its own. ``"additive"``: likewise, and
            the diffusion depends on the time alone. ``"scalar"``: each row along the last dimension, or a
            vector as a whole, has one Wiener process for all of its elements.
        abstol, reltol: tolerances of the error norm rms(e / (abstol + max(|u|, |u_new|) reltol)), taken
            over every element of the batch; as in the stack the local error is of order 1.5, the step count
            grows like 1/tolerance.
        checkpoints: about how many states the forward solve keeps for the adjoint in place of all; the steps
            between them are taken again. The path's own memory is not made less.
        regularizer: what ``solution.regularization`` is; None for nothing.
        saveat: times of the states in ``solution.u``, between two steps by linear interpolation as in the
            stack; by default the end of ``tspan`` alone.
        trajectories: how many paths are solved from each initial state, in one batch and with common steps:
            ``solution.u`` then has one more dimension, of this size, in front of the state's.
        engine: ``"auto"``, ``"torch"`` or ``"julia"``.
        dt: the first step; automatic by default. With fixed steps, the size of all. ``"last"``: in training
            mode that of the last such solve, as its error estimate says it should have been, which saves the
            two evaluations of the automatic one and the small steps after it; it is in the ``state_dict``.
        adaptive: whether the steps' sizes follow the error estimate; by default they do where the method has
            one. Fixed steps are never rejected.
        maxiters: steps tried before `StepLimitError`.
        dtmin, dtmax: bounds of the steps' sizes. A step that would have to be shorter than dtmin is a
            `StepUnderflowError`; one that a tstop or the end cuts short may be.
        tstops: times in the span at which steps end, in any order, say those at which the dynamics jump: the
            steps to either side then see the values of their own side alone, whether the dynamics compare
            with ``<`` or ``<=``.
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
        generator: gives each solve the seed of its path; torch's global CPU generator if None.
        params: tensors that want a gradient and that drift or diffusion reach at some times alone; all others
            are found at the first call.

    Gradients are the exact ones of the steps taken over the path drawn, step sizes and noise held constant:
    each accepted step is taken again and reversed.

    Raises:
        TimeSpanError, ToleranceError, SaveAtError, OptionError, EngineUnavailableError: at construction.
    """

    def __init__(
        self,
        drift: Layers | Layer | torch.nn.Module | Dynamics,
        diffusion: Layers | Layer | torch.nn.Module | Dynamics | AdditiveDiffusion,
        tspan: Sequence[float] = (0.0, 1.0),
        *,
        solver: str = "SOSRI2",
        noise: Noise = "diagonal",
        abstol: float = 1e-2,
        reltol: float = 1e-2,
        checkpoints: int | None = None,
        regularizer: Regularizer | None = None,
        saveat: Sequence[float] | torch.Tensor | None = None,
        trajectories: int | None = None,
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
        generator: torch.Generator | None = None,
        params: Sequence[torch.Tensor] = (),
    ) -> None:
        if str(noise) == "general":
            raise OptionError(
                f"noise='general': {solver} has no steps for a diffusion that mixes Wiener processes; the "
                "kinds of noise are 'diagonal', 'additive' and 'scalar'"
            )
        choose("noise", noise, ("diagonal", "additive", "scalar"))
        super().__init__(
            tspan,
            solver=solver,
            adjoint="discrete",
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
            stochastic=True,
        )
        if self.tspan[1] < self.tspan[0]:
            raise TimeSpanError(f"tspan = {self.tspan} runs backwards: a path of noise is solved along time")
        check_generator(generator)
        self.trajectories = None if trajectories is None else check_count("trajectories", trajectories)
        self.noise: Noise = noise
        self.generator = generator
        self.drift = as_module(drift)
        self.diffusion = _Additive(diffusion) if noise == "additive" else as_module(cast(Any, diffusion))
        check_written(self.engine, self.drift, self.diffusion)

    def extra_repr(self) -> str:
        return (
            f"tspan={self.tspan}, solver={self.solver!r}, noise={self.noise!r}, abstol={self.abstol:g}, "
            f"reltol={self.reltol:g}, engine={self.engine.name!r}, regularizer={self.regularizer}"
        )

    @uncompiled
    def forward(
        self,
        u0: State,
        *,
        saveat: Sequence[float] | torch.Tensor | None = None,
        noise: BrownianPath | None = None,
        dense: bool = False,
        regularize: bool | None = None,
    ) -> Solution:
        """Solve from ``u0``, a float32 or float64 tensor of any shape, or a tuple or dict of such tensors.

        Drift and diffusion get and give, and the solution holds, the same; with ``trajectories`` a state of
        two or more dimensions is repeated along its first one, a vector becomes a batch of vectors.

        Args:
            saveat: in place of the module's own.
            noise: the Brownian path to solve along, ``solution.noise`` of an earlier solve, say; by default
                a new one.
            dense: keep every state, so that the solution can be called at any time (linear interpolation).
            regularize: whether to compute the regularizer; in training mode only by default.

        Raises:
            ShapeError, DtypeError, DeviceError, ToleranceError, TimeSpanError: before the solve.
            NonFiniteError, StepUnderflowError, StepLimitError: where the solve can not go on.
        """
        u0 = mapped(u0, at_the_door)
        layout = layout_of(u0)
        if vmapping():
            raise OptionError(
                "a NeuralSDE inside torch.func.vmap: its samples would share one path. Solve them as one "
                "batch, or take trajectories="
            )
        with full_precision(device_of(u0)):
            packed, unpack = layout.pack(u0), cast(Callable[[torch.Tensor], Any], layout.unpack)
            if self.trajectories is not None:
                if not isinstance(u0, torch.Tensor) or u0.dim() == 0:
                    kind = "scalar" if isinstance(u0, torch.Tensor) else type(u0).__name__
                    raise ShapeError(
                        f"trajectories = {self.trajectories} are solved from a tensor of one or more "
                        f"dimensions, not from a {kind}"
                    )
                packed, unpack = _repeat(packed, self.trajectories)
            times = self._times(saveat, packed.dtype)
            if times.want_gradients:
                raise OptionError(
                    "tspan or saveat want a gradient: paths of SDEs have no derivative by time; give numbers"
                )
            start = times.tspan[0]
            path = self._path(packed, start) if noise is None else self._check_path(noise, packed, start)
            additive = self.noise == "additive"
            sides = [
                layout.dynamics(self.drift),
                self.diffusion if additive else layout.dynamics(self.diffusion),
            ]
            named = (*self.drift.parameters(), *self.diffusion.parameters())
            problem = self._problem(packed, times, sides, named, noise=path)
            return self._solve(problem, packed, times, unpack, dense=dense, regularize=regularize, noise=path)

    def _noise_shape(self, u0: torch.Tensor) -> torch.Size:
        return torch.Size((*u0.shape[:-1], 1)) if self.noise == "scalar" and u0.dim() else u0.shape

    def _path(self, u0: torch.Tensor, start: float) -> BrownianPath:
        seed = draw_seed(self.generator)
        return BrownianPath(start, self._noise_shape(u0), seed=seed, dtype=u0.dtype, device=u0.device)

    def _check_path(self, path: BrownianPath, u0: torch.Tensor, start: float) -> BrownianPath:
        if not isinstance(path, BrownianPath):
            raise OptionError(f"noise is a {type(path).__name__}: give a BrownianPath, solution.noise say")
        wanted = self._noise_shape(u0)
        if path.shape != wanted:
            raise ShapeError(
                f"the Brownian path is of shape {tuple(path.shape)}: {self.noise} noise of a state of shape "
                f"{tuple(u0.shape)} takes {tuple(wanted)}"
            )
        if path.dtype != u0.dtype:
            raise DtypeError(f"the Brownian path is of {path.dtype}, the state of {u0.dtype}: give one dtype")
        if path.device != u0.device:
            raise DeviceError(f"the Brownian path is on {path.device}, the state on {u0.device}")
        if path.start > start:
            raise TimeSpanError(f"the Brownian path starts at {path.start}, after the span does, {start}")
        return path


def _repeat(u0: torch.Tensor, count: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """``count`` copies of the state as one batch, and the way back, with dimensions before kept."""
    copies = u0.expand(count, *u0.shape)
    solved = copies if u0.dim() == 1 else copies.reshape(-1, *u0.shape[1:])

    def unpack(u: torch.Tensor) -> torch.Tensor:
        leading = u.shape[: u.dim() - solved.dim()]
        return u.reshape(*leading, count, *u0.shape)

    return solved.contiguous(), unpack


class _Additive(torch.nn.Module):
    """A diffusion g(t) as g(t, u)."""

    def __init__(self, g: Any) -> None:
        super().__init__()
        if not callable(g):
            raise OptionError(f"diffusion {g!r}: additive noise takes a module or a callable g(t)")
        if isinstance(g, JuliaModel) or is_julia(g):
            raise OptionError(
                "noise='additive' takes g(t), and a diffusion written in Julia is of (u, p, t): take "
                "noise='diagonal', which is the same where u is not used"
            )
        self.g = g

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        value = self.g(t)
        try:
            spread: torch.Tensor = value.expand_as(u)
        except (AttributeError, RuntimeError) as error:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ShapeError(
                f"the diffusion gave {got} at t = {float(t):.6g}: for additive noise g(t) must give a tensor "
                f"that broadcasts to the state's shape {tuple(u.shape)}"
            ) from error
        return spread
