"""The experiments, the paper's five among them: a model each, with its loss and its metric."""

from typing import Protocol

import torch

from pylocalreg.experiments.config import Config
from pylocalreg.experiments.metrics import Metric
from pylocalreg.experiments.task import Data
from pylocalreg.experiments.tasks.base import Experiment
from pylocalreg.experiments.tasks.cifar10_conv import Cifar10Conv
from pylocalreg.experiments.tasks.cifar10_multiscale import Cifar10Multiscale
from pylocalreg.experiments.tasks.ffjord import Ffjord, FfjordDigits
from pylocalreg.experiments.tasks.flow_matching import FlowMatching
from pylocalreg.experiments.tasks.mnist_node import MnistNode
from pylocalreg.experiments.tasks.mnist_nsde import MnistNsde
from pylocalreg.experiments.tasks.physionet import Physionet


class Kind(Protocol):
    """A class of experiments."""

    metric: Metric

    def __call__(self, config: Config, data: Data, generator: torch.Generator, /) -> Experiment: ...


TASKS: dict[str, Kind] = {
    "mnist_node": MnistNode,
    "mnist_nsde": MnistNsde,
    "physionet": Physionet,
    "cifar10_conv": Cifar10Conv,
    "cifar10_multiscale": Cifar10Multiscale,
    "ffjord": Ffjord,
    "ffjord_digits": FfjordDigits,
    "flow_matching": FlowMatching,
}


def build(config: Config, data: Data, generator: torch.Generator) -> Experiment:
    """The config's task on the CPU, in its dtype, with the weights of its seed; it draws from ``generator``.

    Raises:
        OptionError: the method, solver or adjoint can not do what the config asks.
    """
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return TASKS[config.task.name](config, data, generator).to(dtype)
