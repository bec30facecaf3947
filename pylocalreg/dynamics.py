"""Layer descriptions: dynamics as data, with one flat parameter vector, for every engine alike.

A description (`Dense`, `Conv`, `GroupNorm`, `BatchNorm` in a `Chain` or `TimeDependent`) says what is
computed; `LayerDynamics` computes it in PyTorch. The flat vector is laid out as ComponentArrays lays out a
Lux chain: layer by layer the weight, then the bias, each in Julia's column-major order.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch.nn.modules.conv import _ConvNd

from pylocalreg.checks import short
from pylocalreg.compilation import is_compiling
from pylocalreg.errors import OptionError, ShapeError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": lambda x: F.softplus(x, threshold=40),  # by default x itself from 20 on: 2e-9 too little
    "swish": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "sin": torch.sin,
}
"""By Lux's names; gelu is Lux's, the tanh approximation."""


def _check_activation(name: str) -> None:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise OptionError(f"activation {name!r} does not exist: choose one of {sorted(ACTIVATIONS)}")


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**31:
            raise ShapeError(f"{name} = {short(size)} must be a whole number from 1 to {2**31 - 1}")


def _check_momentum(momentum: float) -> None:
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
        raise OptionError(f"momentum = {short(momentum)} must be a number from 0 to 1")


@dataclass(frozen=True)
class Dense:
    """y = activation(W x + b) over the last dimension, of size ``inputs``."""

    inputs: int
    outputs: int
    activation: str = "identity"

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        _check_sizes(inputs=self.inputs, outputs=self.outputs)


@dataclass(frozen=True)
class Conv:
    """A convolution over (batch, channels, height, width), stride 1, zero padded to the same size.

    As in Lux (``cross_correlation=true``), with an odd ``kernel``.
    """

    inputs: int
    outputs: int
    kernel: int = 3
    activation: str = "identity"

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        _check_sizes(inputs=self.inputs, outputs=self.outputs, kernel=self.kernel)
        if self.kernel % 2 == 0:
            raise ShapeError(f"kernel = {self.kernel} must be odd to keep the size")


@dataclass(frozen=True)
class GroupNorm:
    """Group normalization of (batch, channels, ...), with a scale and a bias a channel (Wu, He 2018)."""

    channels: int
    groups: int
    activation: str = "identity"

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        _check_sizes(channels=self.channels, groups=self.groups)
        if self.channels % self.groups:
            raise ShapeError(f"{self.channels} channels do not divide into {self.groups} groups")


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization of (batch, channels, ...) with a scale and a bias a channel.

    In training by the batch's own mean and variance, so that every call in a solve is the same function;
    the running statistics for evaluation mode follow the calls made without a graph: those of the forward
    solve and of an automatic step of the regularizer, not the adjoint's replays.

    Each call moves them by ``momentum``, from 0 to 1, of the way to its own. A solve makes some hundred
    calls: at 0.1, PyTorch's and Lux's default, only the last twenty would count, all of one batch and near
    the end of ``tspan``, and evaluation would take their statistics for those at every time. 0.001 is as slow
    over solves as 0.1 is over the batches of an ordinary network.
    """

    channels: int
    activation: str = "identity"
    momentum: float = 1e-3

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        _check_sizes(channels=self.channels)
        _check_momentum(self.momentum)


Layer: TypeAlias = Dense | Conv | GroupNorm | BatchNorm


def _check_chain(layers: tuple[Layer, ...], injected: int) -> None:
    if not layers:
        raise ShapeError("a chain needs at least one layer")
    for layer in layers:
        if not isinstance(layer, Layer):
            raise OptionError(
                f"{layer!r} is not a layer description: take Dense, Conv, GroupNorm or BatchNorm"
            )
    width: int | None = None
    for layer in layers:
        inputs, outputs = _width(layer)
        if width is not None and width != inputs:
            raise ShapeError(f"{layer} follows a layer of {width} outputs")
        width = outputs
    first = _width(layers[0])[0]
    if injected:
        _check_sizes(injected=injected)
        if not isinstance(layers[0], Dense | Conv):
            raise OptionError(f"injected = {injected}: the first layer, {layers[0]}, is no Dense or Conv")
    if first - injected != width:
        beside = f", {injected} of them injected," if injected else ""
        raise ShapeError(
            f"dynamics give du/dt of u's size, but the chain goes from {first}{beside} to {width}"
        )


def _width(layer: Layer) -> tuple[int, int]:
    if isinstance(layer, Dense | Conv):
        return layer.inputs, layer.outputs
    return layer.channels, layer.channels


@dataclass(frozen=True, init=False)
class Chain:
    """Layers one after the other; the time is ignored.

    With ``injected``, a solve is given one input, ``node(u0, inputs=(x,))``: ``x`` of the state's shape but
    with ``injected`` features (channels), which the first Dense (Conv) sees behind the state's own.
    """

    layers: tuple[Layer, ...]
    injected: int

    def __init__(self, *layers: Layer, injected: int = 0) -> None:
        _check_chain(layers, injected)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "injected", injected)


@dataclass(frozen=True, init=False)
class TimeDependent:
    """As `Chain`; every Dense and Conv sees the time as one more, last, input (channel)."""

    layers: tuple[Layer, ...]
    injected: int

    def __init__(self, *layers: Layer, injected: int = 0) -> None:
        _check_chain(layers, injected)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "injected", injected)


Layers: TypeAlias = Chain | TimeDependent


class LayerDynamics(torch.nn.Module):
    """The PyTorch side of a description: ``f(t, u)`` with the flat parameter vector ``p``.

    Weights start as Lux's do: Glorot uniform, biases zero, scales one.
    """

    def __init__(self, description: Layers) -> None:
        super().__init__()
        self.description = description
        self.timed = isinstance(description, TimeDependent)
        self.shapes = [shape for layer in description.layers for shape in _shapes(layer, self.timed)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.p = torch.nn.Parameter(torch.cat([w.reshape(-1) for w in self._initial()]))
        for i, layer in enumerate(description.layers):
            if isinstance(layer, BatchNorm):
                self.register_buffer(f"running_mean_{i}", torch.zeros(layer.channels))
                self.register_buffer(f"running_var_{i}", torch.ones(layer.channels))
        self._unpacked: tuple[object, list[torch.Tensor]] | None = None

    def _initial(self) -> list[torch.Tensor]:
        tensors = []
        for layer in self.description.layers:
            *weights, bias = _shapes(layer, self.timed)
            for shape in weights:
                if isinstance(layer, Dense | Conv):
                    receptive = layer.kernel**2 if isinstance(layer, Conv) else 1
                    fans = (layer.inputs + int(self.timed) + layer.outputs) * receptive
                    bound = math.sqrt(6 / fans)
                    tensors.append(torch.empty(shape).uniform_(-bound, bound))
                else:
                    tensors.append(torch.ones(shape))
            tensors.append(torch.zeros(bias))
        return tensors

    def tensors(self) -> list[torch.Tensor]:
        """Each layer's weight, in a timed Dense the time's row of it, and bias: views of ``p``, made once
        for all calls between two updates.
        """
        p = self.p
        if is_compiling() or torch._C._len_torch_function_stack():
            return self.split(p)  # another may be given in its place
        key = (id(p), p.data_ptr(), p._version, p.requires_grad, torch.is_grad_enabled())
        if self._unpacked is None or self._unpacked[0] != key:
            self._unpacked = key, self.split(p)
        return self._unpacked[1]

    def split(self, p: torch.Tensor) -> list[torch.Tensor]:
        """Views of a vector laid out as ``p``, as `tensors` gives them."""
        return [x.view(s) for x, s in zip(torch.split(p, self.sizes), self.shapes, strict=True)]

    def forward(self, t: torch.Tensor, u: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        if not isinstance(u, torch.Tensor):
            raise ShapeError(
                f"the state is a {type(u).__name__}, and layers take one tensor: write dynamics f(t, u) that "
                "give the layers its parts and put theirs together"
            )
        if inputs or self.description.injected:
            u = torch.cat([u, self.injected(u, inputs)], dim=self._feature_axis(u))
        tensors = iter(self.tensors())
        for i, layer in enumerate(self.description.layers):
            u = ACTIVATIONS[layer.activation](self._affine(i, layer, tensors, t, u))
        return u

    def injected(self, u: torch.Tensor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The one input that is injected into dynamics of the state ``u``.

        Raises:
            OptionError: there are more or fewer inputs than the description takes.
            ShapeError: the input does not fit the state.
        """
        size, kind = self.description.injected, type(self.description).__name__
        if not size:
            raise OptionError(
                f"{len(inputs)} inputs for a {kind} that takes none: give it injected, the number of features"
            )
        if len(inputs) != 1:
            raise OptionError(f"{len(inputs)} inputs for a {kind} that takes one: node(u0, inputs=(x,))")
        axis = self._feature_axis(u)
        wanted = (*u.shape[:axis], size, *u.shape[axis + 1 :])
        if inputs[0].shape != wanted:
            raise ShapeError(
                f"the injected input is of shape {tuple(inputs[0].shape)}: for a state of shape "
                f"{tuple(u.shape)} it must be {wanted}"
            )
        return inputs[0]

    def check(self, u: torch.Tensor) -> None:
        """Raise `ShapeError` where the first layer does not fit the state."""
        first = self.description.layers[0]
        size = _width(first)[0] - self.description.injected
        axis, least = (
            self._feature_axis(u),
            4 if isinstance(first, Conv) else 1 if isinstance(first, Dense) else 2,
        )
        if u.dim() < least or u.shape[axis] != size:
            raise ShapeError(
                f"the state is of shape {tuple(u.shape)}, but {first} takes {size} features"
                + (
                    " in the last dimension"
                    if isinstance(first, Dense)
                    else f" in dimension 1 of {least} or more"
                )
            )

    def _feature_axis(self, u: torch.Tensor) -> int:
        return u.dim() - 1 if isinstance(self.description.layers[0], Dense) else 1

    def _affine(
        self, i: int, layer: Layer, tensors: Iterator[torch.Tensor], t: torch.Tensor, u: torch.Tensor
    ) -> torch.Tensor:
        w = next(tensors)
        if isinstance(layer, Dense):
            if self.timed:  # the time's row is one more bias: nothing is concatenated
                row, b = next(tensors), next(tensors)
                b = torch.addcmul(b, row, t)
            else:
                b = next(tensors)
            return torch.addmm(b, u, w) if u.dim() == 2 else torch.matmul(u, w) + b
        b = next(tensors)
        if isinstance(layer, Conv):
            if self.timed:
                u = torch.cat([u, t.expand(u.shape[0], 1, *u.shape[2:])], dim=1)
            # Julia's (width, height, in, out) in column-major order is (out, in, height, width) here
            return F.conv2d(u, w, b, padding=layer.kernel // 2)
        if isinstance(layer, GroupNorm):
            return F.group_norm(u, layer.groups, w, b)
        mean: torch.Tensor = getattr(self, f"running_mean_{i}")
        var: torch.Tensor = getattr(self, f"running_var_{i}")
        if self.training and torch.is_grad_enabled():  # a replay: the forward solve has counted this call
            return F.batch_norm(u, None, None, w, b, training=True)
        return F.batch_norm(u, mean, var, w, b, training=self.training, momentum=layer.momentum)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(self.__dict__)
        return state | {"_unpacked": None}  # views of p can not be copied or pickled


def convolves(side: torch.nn.Module) -> bool:
    """Whether a layer, a description's or PyTorch's, is a convolution."""
    return any(
        isinstance(module, _ConvNd)
        or (isinstance(module, LayerDynamics) and any(isinstance(x, Conv) for x in module.description.layers))
        for module in side.modules()
    )


def _shapes(layer: Layer, timed: bool) -> tuple[tuple[int, ...], ...]:
    """Shapes of weight, the time's row of a timed Dense, and bias as row-major tensors."""
    if isinstance(layer, Dense):
        row = ((layer.outputs,),) if timed else ()
        return (layer.inputs, layer.outputs), *row, (layer.outputs,)
    if isinstance(layer, Conv):
        return (layer.outputs, layer.inputs + int(timed), layer.kernel, layer.kernel), (layer.outputs,)
    return (layer.channels,), (layer.channels,)


Function = Callable[..., Any]
"""A plain ``f(t, u)``: ``u`` and what it gives are a tensor, or a tuple or dict of tensors. Where a solve is
given inputs, ``f(t, u, *inputs)``. One that takes a single argument is ``f(u)``: it does not depend on t."""


def as_module(dynamics: Layers | Layer | torch.nn.Module | Function) -> torch.nn.Module:
    """What `NeuralODE` solves: descriptions are built, modules kept, callables wrapped, a
    bare Julia function taken as one without parameters; a module or callable
    that takes one argument, ``torch.nn.Sequential`` say, is given the state alone.

    Raises:
        OptionError: it is none of these, or what its arguments mean is not clear.
    """
    from pylocalreg.julia.models import function, is_julia  # which the engines' own modules import

    if isinstance(dynamics, Layer):
        return LayerDynamics(Chain(dynamics))
    if isinstance(dynamics, Chain | TimeDependent):
        return LayerDynamics(dynamics)
    if is_julia(dynamics):
        return function(dynamics)
    if not callable(dynamics) or isinstance(dynamics, type):
        raise OptionError(
            f"dynamics {dynamics!r} are not a layer description, a module or a callable f(t, u)"
        )
    fewest, most = _arguments(dynamics)
    if most == 1:
        return _OfState(dynamics)
    if most == 0 or (fewest == 1 and _first_name(dynamics) not in ("t", "time")):
        raise OptionError(
            f"the dynamics {dynamics!r} take from {fewest} to {most} arguments: it is not clear what they do "
            "with t and u. Write lambda t, u: ..., or a module with forward(t, u)"
        )
    return dynamics if isinstance(dynamics, torch.nn.Module) else _Function(dynamics)


def _arguments(f: Callable[..., Any]) -> tuple[float, float]:
    """The fewest and most arguments that ``f`` takes by position; 2 to any number where it does not say."""
    called = f.forward if isinstance(f, torch.nn.Module) else f
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return 2, math.inf
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2, math.inf
    return sum(p.default is p.empty for p in by_position), len(by_position)


def _first_name(f: Callable[..., Any]) -> str:
    called = f.forward if isinstance(f, torch.nn.Module) else f
    return next(iter(inspect.signature(called).parameters))


class _Function(torch.nn.Module):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, t: torch.Tensor, u: Any, *inputs: torch.Tensor) -> Any:
        return self.f(t, u, *inputs)


class _OfState(torch.nn.Module):
    """A module or function of the state alone, and of inputs that are no part of it."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, t: torch.Tensor, u: Any) -> Any:
        return self.f(u)


def function_of_state(dynamics: object) -> object:
    """What dynamics that are given the state alone were made of; None of others."""
    made = type(dynamics) is _OfState and not is_hooked(dynamics)
    return dynamics.f if made else None  # type: ignore[attr-defined]


def is_described(f: torch.nn.Module) -> bool:
    """Whether dynamics are those of a layer description and nothing else: what they reach is known."""
    of_layers = f.f if isinstance(f, WithInputs) else f
    return type(of_layers) is LayerDynamics and not is_hooked(of_layers)


def is_dense_chain(f: torch.nn.Module) -> bool:
    """Whether they are those of a description of Dense layers alone."""
    of_layers = f.f if isinstance(f, WithInputs) else f
    return isinstance(of_layers, LayerDynamics) and all(
        isinstance(layer, Dense) for layer in of_layers.description.layers
    )


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether a call of the module does more, or something else, than its class's ``forward``."""
    return bool(hooks_of(module)) or "forward" in module.__dict__


def hooks_of(module: torch.nn.Module) -> list[int]:
    """The hooks of the module's own calls, by PyTorch's number for each."""
    return [
        *module._forward_pre_hooks,
        *module._forward_hooks,
        *module._backward_pre_hooks,
        *module._backward_hooks,
    ]


class WithInputs(torch.nn.Module):
    """Dynamics f(t, u, *inputs) as f(t, u), the inputs constant along the solve: input injection."""

    def __init__(self, f: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.f, self.inputs = f, tuple(inputs)

    def forward(self, t: torch.Tensor, u: Any) -> Any:
        return self.f(t, u, *self.inputs)
