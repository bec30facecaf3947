"""The local error or stiffness of a few steps as a term of the loss: the paper's regularizer."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pylocalreg.checks import check_count, check_finite, check_flag, round_time
from pylocalreg.engines.autograd import Recorded, Solve
from pylocalreg.engines.base import Adjoint, Calls, Engine, Gradient, Quantity, Trajectory
from pylocalreg.engines.scale import Scale, scaled
from pylocalreg.errors import OptionError
from pylocalreg.regularizers.base import Regularized, check_generator, choose, draw, draw_seed
from pylocalreg.regularizers.sampling import Importance, Reservoirs

Sampling = Literal["unbiased", "biased"]
Step = Literal["solver", "initial"]
Noise = Literal["recorded", "fresh"]


@dataclass(frozen=True)
class LocalRegularizer:
    """The error of one solver step at a sampled time tau (Pal, Edelman, Rackauckas 2023, section 3).

    The paper's value is R = EEst * |dt|. A solver makes EEst the same in all of its steps, so that R, and
    with it the pull on the dynamics, falls as they get costlier and the steps shorter: a run whose NFE once
    rises is held less, and may come loose. The default's pull, that of log10(1 + EEst / 0.01), is the same at
    every NFE, tolerance and span: a coefficient of 1 is right beside a cross entropy (docs/training.md).

    Args:
        sampling: ``"unbiased"``: tau is uniform over the time span; ``"biased"``: uniform over the starts of
            the accepted steps.
        step: ``"solver"``: dt is the one the solve took at tau, cut at a tstop and the end of the span;
            ``"initial"``: the automatic first step at u(tau), as in the paper's code.
        gradient: ``"exact"``: through every stage; ``"frozen"``: the first stage is held constant, as in
            the paper's code.
        through_state: whether the gradient also flows through u(tau). dt is held constant always.
        quantity: ``"error"``: EEst; ``"stiffness"``: the estimate S = rms(f(a) - f(b)) / rms(a - b) of the
            step's last two stages in its place.
        scale: ``"log"``: log10(1 + EEst / 0.01); ``"linear"``: R, or S. By default log where it can
            be: for the error, without importance.
        samples: how many times are drawn in a solve, independently; the value is the mean over them.
        importance: for biased sampling with the solver's step. ``"none"``: the mean. ``"uniform"``: weighted
            so that the value is unbiased for the sum over all accepted steps, which `GlobalRegularizer`
            takes. ``"estimate"``: unbiased for it too, the steps drawn in proportion to their estimates.
        noise: for SDEs. ``"recorded"``: the step is taken on the solve's own Brownian path; ``"fresh"``: with
            noise of its own. By default recorded for biased sampling, fresh for unbiased.
        generator: where the draws come from; torch's global CPU generator if None.
        estimator: the solver whose step's estimate is taken in the place of the module's own solver's, from
            the same u(tau) and of the same dt: ``"Tsit5"``, as the paper's code always does. For methods
            whose own steps have no estimate, or none with a gradient.

    Biased with the solver's step and the recorded noise takes no extra evaluation forward: the estimate is
    the recorded step's.

    Raises:
        OptionError: an option has a value that does not exist, or the generator is not a CPU one.
    """

    sampling: Sampling = "unbiased"
    step: Step = "solver"
    gradient: Gradient = "exact"
    through_state: bool = False
    quantity: Quantity = "error"
    samples: int = 1
    importance: Importance = "none"
    noise: Noise | None = None
    generator: torch.Generator | None = None
    scale: Scale | None = None
    estimator: str | None = None

    def __post_init__(self) -> None:
        choose("sampling", self.sampling, ("unbiased", "biased"))
        choose("step", self.step, ("solver", "initial"))
        choose("gradient", self.gradient, ("exact", "frozen"))
        choose("quantity", self.quantity, ("error", "stiffness"))
        choose("importance", self.importance, ("none", "uniform", "estimate"))
        if self.noise is not None:
            choose("noise", self.noise, ("recorded", "fresh"))
        check_flag("through_state", self.through_state)
        check_count("samples", self.samples, most=10_000)
        if self.importance != "none" and not self._reads_record:
            raise OptionError(
                f"importance = {self.importance!r} weights accepted steps: it needs sampling='biased', "
                f"step='solver', no fresh noise and no estimator, not {self.sampling!r}, {self.step!r}, "
                f"{self.noise!r}, {self.estimator!r}"
            )
        if self.scale is not None:
            choose("scale", self.scale, ("log", "linear"))
        if self.scale == "log" and not self._has_log:
            raise OptionError(
                f"scale = 'log' with quantity = {self.quantity!r} and importance = {self.importance!r}: it "
                "is of the error alone, and importance is for its sum over all steps; take scale='linear'"
            )
        check_generator(self.generator)

    @classmethod
    def paper(
        cls, sampling: Sampling = "unbiased", generator: torch.Generator | None = None
    ) -> "LocalRegularizer":
        """What LocalRegNeuralDE.jl (2023) computes: automatic step at tau, first stage held constant."""
        return cls(sampling, step="initial", gradient="frozen", generator=generator, scale="linear")

    @property
    def _scale(self) -> Scale:
        return self.scale or ("log" if self._has_log else "linear")

    @property
    def _has_log(self) -> bool:
        return self.quantity == "error" and self.importance == "none"

    @property
    def _reads_record(self) -> bool:
        """Whether the estimates are those of recorded steps, and no step is taken anew."""
        recorded = self.step == "solver" and self.noise != "fresh" and self.estimator is None
        return self.sampling == "biased" and recorded

    def check(self, engine: Engine, solver: str, adjoint: Adjoint, tspan: tuple[float, float]) -> None:
        """As `Regularizer.check`."""
        if self.estimator is None:
            engine.check_estimate(solver, self.quantity)
        else:
            try:
                # an adjoint that asks nothing of the method's own steps
                engine.check(self.estimator, "interpolating", stochastic=engine.is_stochastic(solver))
                engine.check_estimate(self.estimator, self.quantity)
            except OptionError as error:
                raise OptionError(f"estimator = {str(self.estimator)!r}: {error}") from error
        if self.noise is not None and not engine.is_stochastic(solver):
            raise OptionError(f"noise = {self.noise!r}: solver={solver!r} solves ODEs, which have no noise")

    def solve(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """As `Regularizer.solve`."""
        return self._at_any_times(solve, u0) if self.sampling == "unbiased" else self._at_steps(solve, u0)

    def join(self, pieces: Sequence[tuple[torch.Tensor, Trajectory]]) -> torch.Tensor:
        """One draw in each piece, weighted by its share of the time, or of the steps: the mean is that
        of one draw in the whole, the variance smaller. With importance, whose values are of sums, their sum.
        """
        values = torch.stack([value for value, _ in pieces])
        if self.importance != "none":
            return values.sum()
        if self.sampling == "biased":
            shares = [float(trajectory.naccept) for _, trajectory in pieces]
        else:
            shares = [abs(trajectory.end - trajectory.t[0]) for _, trajectory in pieces]
        return values @ values.new_tensor(shares) / sum(shares)

    def _in_a_piece(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """New steps from (tau, u(tau)) where an event may end the solve: drawn once it is known where."""
        if self.through_state:
            raise OptionError(
                "through_state=True with sampling='unbiased' and events: u(tau) is read after the solve, and "
                "has no gradient; take sampling='biased'"
            )
        solve.keep = dataclasses.replace(solve.keep, states="all", stages=True)
        states, _, _ = solve.run(u0)
        trajectory = solve.trajectory
        steps = []
        for _ in range(self.samples):
            start = trajectory.t[0]
            tau = round_time(start + (trajectory.end - start) * draw(self.generator), u0.dtype)
            with torch.no_grad():
                u = solve.engine.interpolate(solve.problem, trajectory, tau)
            steps.append((tau, u, trajectory.dt[trajectory.step_at(tau)]))
        return Regularized(states, solve.times, *self._new_steps(solve, steps))

    def _at_any_times(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """New steps from (tau, u(tau)), by dense output."""
        if solve.watch is not None:
            return self._in_a_piece(solve, u0)
        asked = list(solve.times)
        start, end = solve.problem.tspan
        taus = [
            round_time(start + (end - start) * draw(self.generator), u0.dtype) for _ in range(self.samples)
        ]
        both = [*asked, *taus]
        order = sorted(range(len(both)), key=lambda i: both[i] if end > start else -both[i])
        solve.times = [both[i] for i in order]
        states, _, _ = solve.run(u0)
        at = dict(zip(order, states, strict=True))
        trajectory = solve.trajectory
        steps = [
            (tau, at[len(asked) + j], trajectory.dt[trajectory.step_at(tau)]) for j, tau in enumerate(taus)
        ]
        return Regularized([at[i] for i in range(len(asked))], asked, *self._new_steps(solve, steps))

    def _at_steps(self, solve: Solve, u0: torch.Tensor) -> Regularized:
        """Accepted steps, or new ones from where those start."""
        sample = Reservoirs(self.samples, self.importance, self.generator)
        solve.recorded = Recorded(
            self.quantity,
            self.gradient,
            self.through_state,
            sample,
            states=not self._reads_record,
            scale=self._scale,
        )
        stiffness = self._reads_record and self.quantity == "stiffness"
        solve.keep = dataclasses.replace(solve.keep, sample=sample, stiffness=stiffness)
        states, value, starts = solve.run(u0)
        if self._reads_record:
            return Regularized(states, solve.times, value, Calls())
        trajectory = solve.trajectory
        weights = solve.recorded.weights(trajectory)
        steps = [(trajectory.t[i], u, trajectory.dt[i]) for i, u in zip(weights, starts, strict=True)]
        value, calls = self._new_steps(solve, steps, list(weights.values()))
        return Regularized(states, solve.times, value, calls)

    def _new_steps(
        self, solve: Solve, steps: list[tuple[float, torch.Tensor, float]], weights: list[float] | None = None
    ) -> tuple[torch.Tensor, Calls]:
        """Weighted sum of the estimates of steps from (tau, u(tau)), by default their mean; and the calls it
        took. Each step comes with the size the solver took there.
        """
        engine, problem, total = solve.engine, solve.problem, Calls()
        estimator = problem.solver if self.estimator is None else self.estimator
        recorded_noise = problem.noise
        fresh = self.noise == "fresh" or (self.noise is None and self.sampling == "unbiased")
        values = []
        for tau, u_tau, solver_dt in steps:
            u = u_tau if self.through_state else u_tau.detach()
            dt = solver_dt
            if self.step == "initial":
                dt, calls = engine.initial_step(problem, tau, u.detach())
                total += calls
            remaining = problem.stop_after(tau) - tau
            dt = remaining if abs(remaining) < abs(dt) else dt
            if recorded_noise is not None and fresh:
                noise = recorded_noise.independent(draw_seed(self.generator))
                problem = dataclasses.replace(problem, noise=noise)
            asked = dataclasses.replace(problem, solver=estimator)
            value, calls = engine.estimate(asked, self.quantity, tau, u, dt, self.gradient)
            check_finite(value, tau, dt)
            total += calls
            values.append(scaled(self._scale, value, dt))
        every = torch.stack(values)
        return every.mean() if weights is None else every @ every.new_tensor(weights), total
