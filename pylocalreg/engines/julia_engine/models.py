"""The right-hand side on both sides of the bridge: a model in Julia, else a callback."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pylocalreg.dynamics import (
    BatchNorm,
    Conv,
    Dense,
    GroupNorm,
    Layer,
    LayerDynamics,
    Layers,
    TimeDependent,
    WithInputs,
)
from pylocalreg.engines.base import Jacobian, Problem
from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.start import Julia
from pylocalreg.engines.real_parts import from_real, real, real_pieces, real_size
from pylocalreg.engines.torch_engine.linearization import (
    DenseLinearization,
    linearize,
    pull_back_directional,
)
from pylocalreg.engines.torch_engine.right_hand_side import RightHandSide
from pylocalreg.julia.models import Drawn


@dataclass(frozen=True)
class Model:
    """Drift and diffusion in Julia, with their parameters.

    Attributes:
        p: every parameter in one flat vector, as Julia lays it out; one zero where there is none.
        split: makes of a gradient by ``p`` one by each of ``problem.params``.
    """

    f: Any
    g: Any
    p: torch.Tensor
    split: Callable[[torch.Tensor], list[torch.Tensor | None]]


def model_of(julia: Julia, problem: Problem, u0: torch.Tensor) -> Model:
    """Models in Julia of what is described by layers or written in Julia; callbacks of everything else."""
    inputs = problem.f.inputs if isinstance(problem.f, WithInputs) else ()
    f = problem.f.f if isinstance(problem.f, WithInputs) else problem.f
    sides = [f] if problem.g is None else [f, problem.g]
    native = [side for side in sides if isinstance(side, LayerDynamics | Drawn)]
    if len(native) == len(sides):
        return _native(julia, native, problem, u0, inputs)
    return _host(julia, problem, u0)


def _native(
    julia: Julia,
    sides: Sequence[LayerDynamics | Drawn],
    problem: Problem,
    u0: torch.Tensor,
    inputs: Sequence[torch.Tensor],
) -> Model:
    """In Julia all parameters are one vector: those of each side, and behind them what is injected."""
    own = [p for p in map(_parameter, sides) if p is not None]
    tensors = [*own, *_injected(sides, u0, inputs)]
    handles = [_model(julia, side) for side in sides]
    if not tensors:
        p = u0.new_zeros(1)
    elif len(tensors) == 1:
        p = plain(tensors[0])
    else:
        p = torch.cat([x.detach().reshape(-1) for x in tensors])
    if len(sides) > 1:
        of_drift = _parameter(sides[0])
        first, last = 0 if of_drift is None else of_drift.numel(), p.numel()
        handles = [
            julia.call("part", handles[0], 1, first),
            julia.call("part", handles[1], first + 1, last),
        ]
    sizes = [x.numel() for x in tensors]

    def split(by_p: torch.Tensor) -> list[torch.Tensor | None]:
        if len(tensors) == 1:  # with nothing to divide: half of what is computed of a small problem here
            return [by_p.view(tensors[0].shape) if p is tensors[0] else None for p in problem.params]
        by_id: dict[int, torch.Tensor] = {}
        for x, piece in zip(tensors, torch.split(by_p[: sum(sizes)], sizes), strict=True):
            own = piece.view(x.shape)  # drift and diffusion may be one module
            by_id[id(x)] = by_id[id(x)] + own if id(x) in by_id else own
        return [by_id.get(id(param)) for param in problem.params]

    return Model(handles[0], handles[1] if len(handles) == 2 else None, p, split)


def _parameter(side: LayerDynamics | Drawn) -> torch.Tensor | None:
    return side.p if isinstance(side, LayerDynamics) else side.f.p


def _injected(
    sides: Sequence[LayerDynamics | Drawn], u0: torch.Tensor, inputs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    return [
        side.injected(u0, inputs)
        for side in sides
        if isinstance(side, LayerDynamics) and (inputs or side.description.injected)
    ]


def _model(julia: Julia, side: LayerDynamics | Drawn) -> Any:
    if isinstance(side, Drawn):
        return side.f.at(julia, side.seed)
    if not side._buffers:  # of batch norms
        return _stateless(julia, side.description)
    rows, running = described(side)
    return julia.call("layers", rows, side.timed, side.description.injected, running, side.training)


def described(side: LayerDynamics) -> tuple[list[Any], list[Any]]:
    """Layers as host/models.jl takes them, and each one's running statistics or None."""
    layers = side.description.layers
    return [_row(layer) for layer in layers], [_running(side, i) for i in range(len(layers))]


@functools.lru_cache(maxsize=64)
def _stateless(julia: Julia, description: Layers) -> Any:
    """One model serves all dynamics of the same description: the parameters come with each call."""
    layers = description.layers
    timed, rows = isinstance(description, TimeDependent), [_row(layer) for layer in layers]
    return julia.call("layers", rows, timed, description.injected, [None] * len(layers), True)


def _row(layer: Layer) -> tuple[str, int, float, int, str]:
    """A layer as layers.jl's `lux_layer` takes it."""
    if isinstance(layer, Dense):
        return "dense", layer.inputs, layer.outputs, 0, layer.activation
    if isinstance(layer, Conv):
        return "conv", layer.inputs, layer.outputs, layer.kernel, layer.activation
    if isinstance(layer, GroupNorm):
        return "groupnorm", layer.channels, layer.groups, 0, layer.activation
    return "batchnorm", layer.channels, float(layer.momentum), 0, layer.activation


def _running(side: LayerDynamics, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not isinstance(side.description.layers[index], BatchNorm):
        return None
    return side.get_buffer(f"running_mean_{index}"), side.get_buffer(f"running_var_{index}")


def _host(julia: Julia, problem: Problem, u0: torch.Tensor) -> Model:
    sides = [RightHandSide(problem.f, "dynamics" if problem.g is None else "drift")]
    if problem.g is not None:
        sides.append(RightHandSide(problem.g, "diffusion"))
    handles = [_Callbacks(side, problem.params, problem.jacobian).handle(julia) for side in sides]

    def split(by_p: torch.Tensor) -> list[torch.Tensor | None]:
        return list(from_real(by_p, problem.params))

    p = u0.new_zeros(max(real_size(problem.params), 1))
    return Model(handles[0], handles[1] if len(handles) == 2 else None, p, split)


class _Callbacks:
    """What a `HostModel` in host/models.jl calls."""

    def __init__(self, f: RightHandSide, params: Sequence[torch.Tensor], jacobian: Jacobian) -> None:
        self.f, self.params, self.of = f, tuple(params), jacobian
        self.size = max(real_size(params), 1)

    def handle(self, julia: Julia) -> Any:
        functions = (self.call, self.pull, self.jacobian, self.time_derivative, self.pull_directional)
        return julia.call("model", *functions)

    def call(self, du: torch.Tensor, u: torch.Tensor, t: float) -> None:
        with torch.no_grad():
            du.copy_(self.f(t, u))

    def pull(self, u: torch.Tensor, t: float) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
        with torch.enable_grad():
            start = u.detach().requires_grad_()
            k = self.f(t, start)

        def back(cotangent: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            if not k.requires_grad:
                return None, None
            by_u, *by_params = torch.autograd.grad(k, [start, *self.params], cotangent, allow_unused=True)
            return None if by_u is None else plain(by_u), self._flat(by_params, u)

        return plain(k), back

    def _flat(self, by_params: Sequence[torch.Tensor | None], u: torch.Tensor) -> torch.Tensor | None:
        if all(grad is None for grad in by_params):
            return None
        flat = u.new_zeros(self.size)
        for place, grad in zip(real_pieces(flat, self.params), by_params, strict=True):
            if grad is not None:
                place.copy_(real(grad).reshape(-1))
        return flat

    def jacobian(self, u: torch.Tensor, t: float) -> torch.Tensor:
        J = self._linearized(u, t).J
        if self.of == "per_sample":
            J = torch.block_diag(*J)  # type: ignore[no-untyped-call]
        return plain(J)

    def time_derivative(self, u: torch.Tensor, t: float) -> torch.Tensor:
        return plain(self._linearized(u, t).dT)

    def pull_directional(
        self, u: torch.Tensor, t: float, du: torch.Tensor, dt: float, cotangent: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        by_t = u.new_full((1,), dt)
        by_u, by_params = pull_back_directional(
            self.f.f, self.params, t, u, by_t, du.unsqueeze(0), cotangent.unsqueeze(0)
        )
        return None if by_u is None else plain(by_u), self._flat(by_params, u)

    def _linearized(self, u: torch.Tensor, t: float) -> DenseLinearization:
        with torch.no_grad():
            return linearize(self.f.f, t, u, self.of)
