"""Dynamics that are known to be a chain of dense layers: a description, or a `torch.nn.Sequential`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

from pylocalreg.dynamics import ACTIVATIONS, LayerDynamics, function_of_state, is_dense_chain, is_hooked
from pylocalreg.engines.base import Dynamics
from pylocalreg.engines.torch_engine.functional import Tensors
from pylocalreg.observed.observed import Observed

Weights = list[tuple[torch.Tensor, list[torch.Tensor]]]
"""Each layer's weight, of shape (inputs, outputs), and biases: its own, and the time's row of the weight."""

Activation = Callable[[torch.Tensor], torch.Tensor]


class DenseChain(ABC):
    """The layers, whoever holds their parameters."""

    activations: Sequence[Activation]
    """One for each layer."""

    @abstractmethod
    def weights(self) -> Weights:
        """As they are now, without their graph."""

    @abstractmethod
    def zeros(self) -> Weights:
        """Of the same shapes, to add gradients to."""

    @abstractmethod
    def by_parameter(self, gradients: Weights) -> list[torch.Tensor]:
        """Of gradients by `weights` those by the parameters that the solve names, in its order."""


def dense_chain(f: Dynamics, params: Tensors) -> DenseChain | None:
    """None where ``f`` is none, or does more than that."""
    if isinstance(f, LayerDynamics):
        return OfDescription(f) if is_dense_chain(f) and not f.description.injected else None
    module = function_of_state(f.call) if type(f) is Observed else None
    if type(module) is not nn.Sequential or any(is_hooked(x) for x in module.modules()):
        return None
    return _of_sequential(list(module), params)


class OfDescription(DenseChain):
    """The layers of a description, whose one parameter is a flat vector."""

    def __init__(self, layers: LayerDynamics) -> None:
        self.layers = layers
        self.activations = [ACTIVATIONS[layer.activation] for layer in layers.description.layers]

    def weights(self) -> Weights:
        return self._by_layer(self.layers.p.detach())

    def zeros(self) -> Weights:
        return self._by_layer(torch.zeros_like(self.layers.p))

    def by_parameter(self, gradients: Weights) -> list[torch.Tensor]:
        return [torch.cat([x.reshape(-1) for w, biases in gradients for x in (w, *biases[::-1])])]

    def _by_layer(self, p: torch.Tensor) -> Weights:
        each, size = self.layers.split(p), 3 if self.layers.timed else 2
        return [(each[i], each[i + 1 : i + size][::-1]) for i in range(0, len(each), size)]


class OfSequential(DenseChain):
    """`torch.nn.Linear` layers, whose weights are of shape (outputs, inputs)."""

    def __init__(
        self, linears: Sequence[nn.Linear], activations: Sequence[Activation], params: Tensors
    ) -> None:
        self.linears, self.activations, self.params = linears, activations, params

    def weights(self) -> Weights:
        return [(linear.weight.detach().T, [linear.bias.detach()]) for linear in self.linears]

    def zeros(self) -> Weights:
        return [
            (torch.zeros_like(linear.weight).T, [torch.zeros_like(linear.bias)]) for linear in self.linears
        ]

    def by_parameter(self, gradients: Weights) -> list[torch.Tensor]:
        found = {}
        for linear, (weight, (bias,)) in zip(self.linears, gradients, strict=True):
            found[id(linear.weight)], found[id(linear.bias)] = weight.T, bias
        return [found[id(p)] for p in self.params]


def _activation(module: nn.Module) -> Activation | None:
    """None where the module's class is not known to be one, of its input alone."""
    if type(module) is nn.ELU and module.alpha == 1 and not module.inplace:
        return torch.nn.functional.elu
    if type(module) is nn.GELU:
        return module.forward
    if type(module) is nn.SiLU and not module.inplace:
        return torch.nn.functional.silu
    if type(module) is nn.ReLU and not module.inplace:
        return torch.relu
    if type(module) is nn.Softplus:
        return module.forward
    return {nn.Tanh: torch.tanh, nn.Sigmoid: torch.sigmoid, nn.Identity: lambda x: x}.get(type(module))


def _of_sequential(modules: Sequence[nn.Module], params: Tensors) -> OfSequential | None:
    """Linear layers, an activation behind each or none."""
    linears: list[nn.Linear] = []
    activations: list[Activation] = []
    for module in modules:
        if type(module) is nn.Linear:
            linears.append(module)
            activations.append(ACTIVATIONS["identity"])
            continue
        activation = _activation(module)
        if activation is None or not linears or activations[-1] is not ACTIVATIONS["identity"]:
            return None
        activations[-1] = activation
    if any(linear.bias is None for linear in linears):
        return None
    held = [x for linear in linears for x in (linear.weight, linear.bias)]
    wanted = {id(x) for x in held if x.requires_grad}
    once = len({id(x) for x in held}) == len(held)
    return OfSequential(linears, activations, params) if once and wanted == set(map(id, params)) else None
