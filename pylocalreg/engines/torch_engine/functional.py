"""The dynamics as a function of tensors that a compiler, or a CUDA graph, may take in the place of calls."""

from collections.abc import Hashable, Sequence

import torch

from pylocalreg.compilation import is_compiling
from pylocalreg.dynamics import LayerDynamics, hooks_of, is_described
from pylocalreg.engines.base import Dynamics
from pylocalreg.engines.torch_engine.one_sided import OneSided
from pylocalreg.observed import Observed
from pylocalreg.observed.reached import Substituting, is_transformed, transforming
from pylocalreg.observed.reads import Reads

Tensors = tuple[torch.Tensor, ...]


class NotFunctionalError(Exception):
    """The dynamics can not be taken as a function; says why."""


class Functional:
    """f(params, t, u), ``params`` in the place of ``own``; with none given as the module is.

    For one solve, or one backward pass.
    """

    def __init__(self, module: torch.nn.Module, own: Tensors) -> None:
        named = {id(p): name for name, p in module.named_parameters()}
        beside = sum(id(p) not in named for p in own)
        if beside:
            raise NotFunctionalError(
                f"{beside} tensors that want a gradient are no parameters of the dynamics"
            )
        self._reads: Hashable = None
        self.module, self.own, self.names = module, own, tuple(named[id(p)] for p in own)

    def __call__(self, params: Tensors, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        if not params:
            k: torch.Tensor = self.module(t, u)
            return k
        if is_compiling():
            named = dict(zip(self.names, params, strict=True))
            traced: torch.Tensor = torch.func.functional_call(self.module, named, (t, u))
            return traced
        # functional_call would have the module hold other parameters while other threads call it
        with Substituting({id(x): given for x, given in zip(self.own, params, strict=True)}):
            called: torch.Tensor = self.module(t, u)
        return called

    @property
    def hooks(self) -> tuple[int, ...]:
        """The hooks of all modules: a compiler takes them for unchanging."""
        return tuple(hook for module in self.module.modules() for hook in hooks_of(module))

    @property
    def known(self) -> Hashable:
        """What a compiled function of layers depends on beside elements and shapes; None for others."""
        layers, around = self.module, self.around
        if around is None or not is_described(layers):
            return None
        assert isinstance(layers, LayerDynamics)
        p = layers.p
        of_p = id(p), p.shape, p.dtype, p.stride(), p.requires_grad
        return of_p, layers.description, around

    @property
    def around(self) -> Hashable:
        """Of `known`, what can change while the description and its parameter do not."""
        layers = self.module
        if layers._buffers or torch._C._len_torch_function_stack():
            return None
        return tuple(vars(layers)), torch.get_num_threads()

    def reads(self, t: torch.Tensor, u: torch.Tensor) -> Hashable:
        """What a call computes with; makes one, the first time it is asked.

        Raises:
            NotFunctionalError: calls wait for what they have computed.
        """
        if self._reads is None:
            with Reads((t, u)) as reads:
                self.module(t, u)
            if reads.reads_back:
                raise NotFunctionalError(
                    "the dynamics read elements of tensors, or move them between devices"
                )
            self._reads = reads.key
        return self._reads


def functional(f: Dynamics, params: Sequence[torch.Tensor]) -> Functional:
    """The dynamics that ``f`` calls, whose gradients are wanted by ``params``.

    Raises:
        NotFunctionalError: a call does more than compute, or is given more than can be seen.
    """
    if isinstance(f, OneSided):  # the times that a step asks at are made one-sided before
        f = f.f
    if isinstance(f, Observed):
        if f.draws is not None or f.writes:
            raise NotFunctionalError("the dynamics draw random numbers or write to their input")
        f = f.call
    elif not (isinstance(f, torch.nn.Module) and is_described(f)):
        raise NotFunctionalError(f"{type(f).__name__} is no module of the user's alone")
    if transforming() or any(is_transformed(p) for p in params):
        raise NotFunctionalError("torch.func transforms the solve")
    if not isinstance(f, torch.nn.Module):
        raise NotFunctionalError("the dynamics are no module")
    return Functional(f, tuple(params))
