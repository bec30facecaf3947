"""Dynamics written in Julia, a Lux model or a function, as PyTorch modules."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pylocalreg.checks import DTYPES, NOT_NUMBERS, short
from pylocalreg.dynamics import is_hooked
from pylocalreg.engines.julia_engine.crossing import plain
from pylocalreg.engines.julia_engine.failures import refusals
from pylocalreg.engines.julia_engine.start import Julia, start
from pylocalreg.errors import DeviceError, DtypeError, OptionError, ShapeError
from pylocalreg.julia.evaluate import Evaluate
from pylocalreg.observed.reached import transforming
from pylocalreg.regularizers.base import draw_seed

IN_PLACE_INPUTS = 1000
"""Elements of state and parameters that f!(du, u, p, t) is differentiated by, each of them forwards."""

Place = tuple[str, int, tuple[int, ...]]
"""A name, where its first element is in the flat vector (from 1), and its size in Julia."""


class Handle:
    """A Julia object that nothing changes: copies of a module share it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> "Handle":
        return self

    def __reduce__(self) -> NoReturn:
        raise OptionError(
            "a model written in Julia can not be pickled: save its state_dict, and load that into a model "
            "made of the same code"
        )


@dataclass(frozen=True)
class Made:
    """What Julia made of the user's code: a handle, and what lies where in the flat vectors."""

    handle: Handle
    p: torch.Tensor | None
    places: tuple[Place, ...]
    state: torch.Tensor | None = None
    state_places: tuple[Place, ...] = ()
    draws: bool = False
    is_function: bool = False
    in_place: bool = False


class JuliaModel(torch.nn.Module):
    """Dynamics du/dt = f(t, u) written in Julia: `lux` and `function` make them.

    A state crosses as it lies in memory: a tensor (features,) is a vector, (batch, features) a matrix of
    features x batch, (batch, channels, height, width) an array of width x height x channels x batch.

    Attributes:
        p: every parameter, one flat vector in the order and memory that Julia computes with; None where there
            are none.
        state: the running arrays of Lux layers in one flat vector, batch norm's statistics say: a buffer.
            They follow the calls made in training mode without a graph, those of the forward solve.
    """

    p: torch.nn.Parameter | None
    state: torch.Tensor | None

    def __init__(self, made: Made, timed: bool = False) -> None:
        super().__init__()
        self.made, self.timed = made, timed
        self.register_parameter("p", None if made.p is None else torch.nn.Parameter(made.p))
        self.register_buffer("state", made.state)

    def forward(self, t: torch.Tensor | float, u: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """f(t, u), computed in Julia; differentiable, once, by t, u and ``p``.

        Raises:
            ShapeError, DtypeError, DeviceError: ``u`` does not fit.
            OptionError: inputs are given, or what Julia code does that can not be solved.
        """
        if inputs:
            raise OptionError(
                f"{len(inputs)} inputs for dynamics written in Julia, which take none: make them part of the "
                "state, with a derivative of 0"
            )
        return self.evaluate(t, u, self.draw())

    def evaluate(self, t: torch.Tensor | float, u: torch.Tensor, seed: int) -> torch.Tensor:
        """f(t, u) with the draws of a seed."""
        if transforming():
            raise OptionError(
                "a function that torch.func transforms calls dynamics written in Julia: they have the first "
                "derivatives of reverse mode alone"
            )
        self.check(u)
        julia = start()
        p = u.new_zeros(1) if self.p is None else self.p
        with refusals(julia):
            value: torch.Tensor = Evaluate.apply(  # type: ignore[no-untyped-call]
                julia, self.at(julia, seed), torch.is_grad_enabled(), t, u, p
            )
        return value

    def at(self, julia: Julia, seed: int) -> Any:
        """The model in Julia, for one solve."""
        return julia.call("user_model", self.made.handle.value, self.timed, self.state, self.training, seed)

    def draw(self) -> int:
        """A seed of the random numbers that layers draw, dropout say, from torch's generator."""
        return draw_seed(None) if self.made.draws and self.training else 0

    def drawn(self) -> "Drawn":
        """The dynamics of one solve: every call draws the same random numbers."""
        return Drawn(self, self.draw())

    def check(self, u: Any) -> None:
        """Raise where a state can not be theirs, `OptionError` where they would have no gradient."""
        if not isinstance(u, torch.Tensor):
            raise ShapeError(f"the state is a {type(u).__name__}: dynamics written in Julia take one tensor")
        if u.dtype not in DTYPES or (self.p is not None and self.p.dtype != u.dtype):
            own = "torch.float32 or torch.float64" if self.p is None else self.p.dtype
            raise DtypeError(
                f"the state is of {u.dtype}, the Julia model of {own}: give one dtype, as in "
                "module.to(u0.dtype)"
            )
        if u.device.type != "cpu":
            raise DeviceError(f"the state is on {u.device}: models written in Julia are solved on the CPU")
        if is_hooked(self):
            raise OptionError(
                "a model written in Julia has hooks, or a forward of its own: Julia calls the model, not the "
                "module, and would pass them by. Remove them, or write what they do in Julia"
            )
        count = u.numel() + (0 if self.p is None else self.p.numel())
        if self.made.in_place and count > IN_PLACE_INPUTS and torch.is_grad_enabled():
            raise OptionError(
                f"f!(du, u, p, t) with {count} elements of state and parameters: it is differentiated by "
                f"each, up to {IN_PLACE_INPUTS}. Write it out of place, f(u, p, t), which Zygote "
                "differentiates, or solve within torch.no_grad()"
            )

    def named_views(self) -> dict[str, torch.Tensor]:
        """The parameters by name, layer_1.weight say, as views of ``p``: with Julia's dimensions reversed, a
        Lux Dense's weight is of shape (inputs, outputs).
        """
        return {} if self.p is None else _views(self.p, self.made.places)

    def named_states(self) -> dict[str, torch.Tensor]:
        """The running arrays by name, layer_2.running_mean say, as views of ``state``."""
        return {} if self.state is None else _views(self.state, self.made.state_places)

    def extra_repr(self) -> str:
        names = ", ".join(f"{name} {tuple(x.shape)}" for name, x in self.named_views().items())
        return short(names).strip("'")


class Drawn(torch.nn.Module):
    """A Julia model's dynamics in one solve, with the draws of one seed at every call."""

    def __init__(self, f: JuliaModel, seed: int) -> None:
        super().__init__()
        self.f, self.seed = f, seed

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.f.evaluate(t, u, self.seed)


def _views(flat: torch.Tensor, places: Sequence[Place]) -> dict[str, torch.Tensor]:
    views = {}
    for name, first, dims in places:
        shape = dims[::-1]
        views[name] = flat[first - 1 : first - 1 + int(np.prod(shape, dtype=int))].view(shape)
    return views


def lux(
    model: Any,
    *,
    file: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    timed: bool = False,
) -> JuliaModel:
    """A Lux model as dynamics.

    Args:
        model: Julia code whose value is a Lux layer, ``"Chain(Dense(784 => 100, tanh), Dense(100 => 784))"``,
            or such an object of ``juliacall.Main``.
        file: a Julia file, included before in a module of its own: the code can name what is defined there.
            Without one Lux's and NNlib's names are there.
        seed: of the initial parameters; by default from torch's generator. They are of torch's default dtype,
            or of Float64 where the model makes such.
        timed: whether the model takes the time as one more, last, input (a channel of images).

    Raises:
        OptionError: the code fails, or gives no Lux layer with parameters in arrays of numbers.
        EngineUnavailableError: there is no Julia.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise OptionError(f"seed = {short(seed)} must be a whole number from 0 to {2**63 - 1}, or None")
    source = _checked(model, file, "a Lux layer")
    julia = start()
    with refusals(julia):
        handle, p, places, state, state_places, draws = julia.call(
            "lux", _value(julia, source), draw_seed(None) if seed is None else seed
        )
    made = Made(
        Handle(handle), _own(p), _places(places), _own(state), _places(state_places), draws=bool(draws)
    )
    return JuliaModel(made, timed)


def function(
    f: Any, p: Any = None, *, file: str | os.PathLike[str] | None = None, in_place: bool | None = None
) -> JuliaModel:
    """A Julia function ``f(u, p, t)`` or ``f!(du, u, p, t)`` as dynamics.

    Args:
        f: Julia code whose value is the function, ``"(u, p, t) -> -p[1] .* u"``, or such an object of
            ``juliacall.Main``. A batch (n, d) is a matrix of d x n to it.
        p: the initial parameters: numbers in a sequence or a tensor, a dict of numbers and tensors, nested at
            will, that Julia sees as a named tuple (``p.alpha``), or a Julia object of either kind. Without it
            the function has no parameters.
        file: as in `lux`.
        in_place: where the function has methods of three and of four arguments, which of them is meant.

    Gradients are Zygote's, or where it is in place ForwardDiff's, by every element of state and parameters.

    Raises:
        OptionError: the code fails, or gives no such function; parameters are no numbers.
        EngineUnavailableError: there is no Julia.
    """
    if in_place is not None and not isinstance(in_place, bool):
        raise OptionError(f"in_place = {short(in_place)} must be True, False or None")
    source, (initial, dtype) = _checked(f, file, "a function"), _initial(p)
    julia = start()
    with refusals(julia):
        handle, flat, places, writes = julia.call("function", _value(julia, source), initial, in_place)
    if not is_julia(p):
        dtype = dtype or torch.get_default_dtype()
    own = _own(flat, dtype)
    return JuliaModel(Made(Handle(handle), own, _places(places), is_function=True, in_place=bool(writes)))


@dataclass(frozen=True)
class _Code:
    text: str
    file: str | None


def is_julia(x: object) -> bool:
    """Whether this is juliacall's view of a Julia object."""
    return any(kind.__module__ == "juliacall" for kind in type(x).__mro__)


def _checked(source: Any, file: str | os.PathLike[str] | None, wanted: str) -> Any:
    if isinstance(source, str):
        if file is not None and not Path(file).is_file():
            raise OptionError(f"file = {os.fspath(file)!r} does not exist")
        return _Code(source, None if file is None else str(Path(file).resolve()))
    if not is_julia(source):
        raise OptionError(
            f"{short(source)} is a {type(source).__name__}: give Julia code whose value is {wanted}, as a "
            "string, or an object of juliacall.Main"
        )
    if file is not None:
        raise OptionError("file is for a name in that file: give it as a string, or leave file out")
    return source


def _value(julia: Julia, source: Any) -> Any:
    if not isinstance(source, _Code):
        return source
    try:
        return julia.call("user_code", source.text, source.file)
    except julia.juliacall.JuliaError as error:
        where = "" if source.file is None else f" or the file {source.file}"
        raise OptionError(f"the Julia code {short(source.text)}{where} failed: {error}") from error


def _initial(p: Any) -> tuple[Any, torch.dtype | None]:
    """The parameters as host/julia_models.jl takes them, and the dtype of the tensors among them."""
    if p is None or is_julia(p):
        return p, None
    if isinstance(p, dict):
        wrong = [key for key in p if not isinstance(key, str)]
        if wrong:
            raise OptionError(f"p has the key {short(wrong[0])}: its keys name parameters, as strings")
        each = {key: _initial(value) for key, value in p.items()}
        dtype = None
        for _, other in each.values():
            dtype = other if dtype is None or other is None else torch.promote_types(dtype, other)
        return {key: value for key, (value, _) in each.items()}, dtype
    if isinstance(p, torch.Tensor):
        if not p.is_floating_point():
            raise DtypeError(f"p holds a tensor of {p.dtype}: parameters are floating point numbers")
        return (plain(p.cpu().to(torch.float64)),), p.dtype
    try:
        numbers = np.asarray(p, dtype=np.float64)
    except NOT_NUMBERS as error:
        raise OptionError(f"p = {short(p)}: parameters are numbers, tensors, or dicts of these") from error
    if numbers.ndim == 0:
        return float(numbers), None
    return (torch.from_numpy(np.ascontiguousarray(numbers)),), None


def _own(flat: torch.Tensor | None, dtype: torch.dtype | None = None) -> torch.Tensor | None:
    """A flat vector in memory of its own, of torch's default dtype unless Julia's is finer."""
    if flat is None:
        return None
    return flat.to(dtype or torch.promote_types(flat.dtype, torch.get_default_dtype()), copy=True)


def _places(rows: Any) -> tuple[Place, ...]:
    return tuple((str(name), int(first), tuple(int(d) for d in dims)) for name, first, dims in rows)
