"""What an experiment is run with: the sections of a YAML file, checked key by key before anything starts.

Each experiment has a packaged file with the paper's settings (``configs/mnist_node.yaml``, ...). A file of
one's own says which task it is of and what differs from that task's packaged file.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pylocalreg.engines.base import Adjoint
from pylocalreg.engines.scale import Scale
from pylocalreg.errors import ConfigError
from pylocalreg.experiments import plain_yaml
from pylocalreg.experiments.typed import problems
from pylocalreg.regularizers import Sampling

Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Method = Literal[
    "vanilla",
    "local_unbiased",
    "local_biased",
    "paper",
    "global_error",
    "global_stiffness",
    "steer",
    "taynode",
    "rnode",
]


class Section(BaseModel):
    """A part of a config: an unknown key is refused, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MnistNode(Section):
    """A neural ODE over the flattened image, a linear classifier."""

    name: Literal["mnist_node"]
    hidden: Size


class MnistNsde(Section):
    """A linear layer to ``width``, a neural SDE there, a linear classifier; the test takes the mean of
    ``trajectories`` paths.
    """

    name: Literal["mnist_nsde"]
    width: Size
    hidden: Size
    trajectories: Size


class Physionet(Section):
    """A latent ODE: recognition GRU (state and hidden layers), latent state, generator of ``layers`` hidden
    layers, each of size ``hidden``; ``noise`` is the standard deviation of an observation.
    """

    name: Literal["physionet"]
    recognition: Size
    gru_hidden: Size
    latent: Size
    hidden: Size
    layers: Size
    noise: Positive


class Cifar10Conv(Section):
    """A convolutional neural ODE over the image with learnt channels beside its three."""

    name: Literal["cifar10_conv"]
    channels: Annotated[int, Field(ge=4, le=2**16, strict=True)]
    hidden: Size


class Cifar10Multiscale(Section):
    """A neural ODE over feature maps of several resolutions, each half the one before."""

    name: Literal["cifar10_multiscale"]
    channels: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
    expansion: Size
    groups: Size


class Ffjord(Section):
    """A continuous normalizing flow of points in two dimensions, ``layers`` hidden layers of ``hidden``."""

    name: Literal["ffjord"]
    hidden: Size
    layers: Size


class FfjordDigits(Section):
    """The same flow, over images: pixels x in [0, 1] become logits of ``margin`` + (1 - 2 ``margin``) x."""

    name: Literal["ffjord_digits"]
    hidden: Size
    layers: Size
    margin: Annotated[float, Field(gt=0, lt=0.5)]


class FlowMatching(Section):
    """Flow matching over the flattened image, its velocity a network of residual ``blocks``, each ``hidden``
    wide; ``smallest`` is the deviation that is left of the noise at the path's end. A method fine-tunes: it
    regularizes a solve of ``solved`` samples in each of the last ``fine_tune`` training steps.
    """

    name: Literal["flow_matching"]
    hidden: Size
    blocks: Size
    smallest: Annotated[float, Field(ge=0, lt=1)]
    fine_tune: Count
    solved: Size


TaskSection = Annotated[
    MnistNode
    | MnistNsde
    | Physionet
    | Cifar10Conv
    | Cifar10Multiscale
    | Ffjord
    | FfjordDigits
    | FlowMatching,
    Field(discriminator="name"),
]


class DataSource(Section):
    """Where data come from: ``folder``, where it is given; else a stand-in if ``offline``, else a download.

    ``validation`` is the share of the training set, by a fixed seed, that is held back: it follows a run, and
    coefficients are chosen by it. ``limit`` is the most samples taken of the training set, and of the test
    set.
    """

    folder: Path | None = None
    offline: bool = False
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    limit: Count | None = None


class Images(DataSource):
    name: Literal["mnist", "cifar10"]


class Records(DataSource):
    """Observations, which have a time in minutes, are averaged over bins of ``bin_hours``."""

    name: Literal["physionet"]
    bin_hours: Annotated[float, Field(ge=0.01, le=48)]


Density = Literal[
    "8gaussians", "2spirals", "checkerboard", "circles", "moons", "pinwheel", "rings", "swissroll"
]


class Here(DataSource):
    """Data that are made, or lie in a package: there is no folder to read and nothing to download."""

    folder: None = None
    offline: Literal[True] = True


class Points(Here):
    """``samples`` draws of a density in two dimensions to train on, and as many for the test."""

    name: Literal["points"]
    density: Density
    samples: Annotated[int, Field(ge=2, le=10**7, strict=True)]


class SmallDigits(Here):
    """scikit-learn's digits, of 8 x 8."""

    name: Literal["small_digits"]


DataSection = Annotated[Images | Records | Points | SmallDigits, Field(discriminator="name")]

DATA_OF = {
    "mnist_node": "mnist",
    "mnist_nsde": "mnist",
    "physionet": "physionet",
    "cifar10_conv": "cifar10",
    "cifar10_multiscale": "cifar10",
    "ffjord": "points",
    "ffjord_digits": "small_digits",
    "flow_matching": "mnist",
}
"""The data set of each task."""


class Solver(Section):
    """The method by the stack's name, its tolerances and adjoint."""

    name: str
    abstol: Positive
    reltol: Positive
    adjoint: Adjoint


class Coefficient(Section):
    """From ``start`` at the first training step to ``end`` at the last, by a constant factor a step."""

    start: Positive
    end: Positive


class Weighted(Section):
    """A term of the loss and its coefficient."""

    coefficient: Coefficient


class Local(Section):
    """`LocalRegularizer` with the solver's own step, the exact gradient and, by default, the logarithm of the
    error, whose coefficient of 1 has no units.
    """

    coefficient: Coefficient = Coefficient(start=1.0, end=1.0)
    scale: Scale = "log"
    samples: Size = 1


class Paper(Weighted):
    """`LocalRegularizer.paper`: the automatic step, the first stage held constant."""

    sampling: Sampling


class Steer(Section):
    spread: Positive


class Taylor(Weighted):
    order: Size


class Rnode(Weighted):
    """`RNODE`; the coefficient is that of both terms together."""

    kinetic: NotNegative
    jacobian: NotNegative


class Methods(Section):
    """The settings of each method; one that is left out is not to be had in the experiment."""

    local_unbiased: Local | None = None
    local_biased: Local | None = None
    paper: Paper | None = None
    global_error: Weighted | None = None
    global_stiffness: Weighted | None = None
    steer: Steer | None = None
    taynode: Taylor | None = None
    rnode: Rnode | None = None


class Constant(Section):
    kind: Literal["constant"]


class Inverse(Section):
    """The rate at step n, counted from 0, is the first one divided by 1 + ``decay`` n."""

    kind: Literal["inverse"]
    decay: Positive


class Cosine(Section):
    """Along half a cosine, to ``end`` at the last step."""

    kind: Literal["cosine"]
    end: Positive


class Optimizer(Section):
    name: Literal["adam", "adamax"]
    learning_rate: Positive
    schedule: Annotated[Constant | Inverse | Cosine, Field(discriminator="kind")]


class Train(Section):
    """``batch`` samples a step, ``steps`` steps, an evaluation on the validation part every
    ``evaluate_every``. NFE and prediction times are those of ``test_batch`` samples at once.
    """

    batch: Count
    test_batch: Count
    steps: Count
    evaluate_every: Count
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0


class Config(Section):
    """An experiment, whole."""

    task: TaskSection
    data: DataSection
    solver: Solver
    method: Method = "vanilla"
    methods: Methods
    optimizer: Optimizer
    train: Train
    dtype: Literal["float32", "float64"]
    engine: Literal["auto", "torch", "julia"] = "torch"

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        wanted = DATA_OF[self.task.name]
        if self.data.name != wanted:
            raise ValueError(f"task {self.task.name!r} is of the data set {wanted!r}, not {self.data.name!r}")
        if self.method not in self.available_methods:
            raise ValueError(
                f"method {self.method!r} has no settings in {self.task.name!r}: choose one of "
                f"{self.available_methods}, or give methods.{self.method}"
            )
        return self

    @property
    def available_methods(self) -> list[Method]:
        """The methods that have settings here; vanilla needs none."""
        every: tuple[Method, ...] = get_args(Method)
        return [name for name in every if name == "vanilla" or getattr(self.methods, name) is not None]


def packaged() -> list[str]:
    """The names of the packaged configs: each experiment's, and a short one of each for small machines."""
    folder = resources.files("pylocalreg.experiments") / "configs"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A packaged config by its name, or a file of one's own, with changes.

    Args:
        name_or_path: ``"mnist_node"``, say, or the path of a YAML file. Its keys stand before those of the
            packaged config of its task.
        overrides: ``"train.steps=100"``, say: the value is read as YAML.

    Raises:
        ConfigError: there is no such config, it is not YAML, a key is unknown or a value is not of its kind.
    """
    given = _read(name_or_path)
    task = given.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    if name not in DATA_OF:
        raise ConfigError(
            f"{name_or_path}: task.name = {name!r} does not exist: choose one of {list(DATA_OF)}"
        )
    settings = _merge(_read(name), given)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise ConfigError(f"{override!r} is no change of a config: write section.key=value")
        parts = key.split(".")
        if len(parts) > plain_yaml.DEEPEST:
            raise ConfigError(f"{override[:200]!r} is no change of a config: no section lies that deep")
        change = plain_yaml.parse(value, override)
        for part in reversed(parts):
            change = {part: change}
        settings = _merge(settings, change)
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{name_or_path}: {problems(error)}") from error


def _read(name_or_path: str | Path) -> dict[str, Any]:
    if str(name_or_path) in packaged():
        source = resources.files("pylocalreg.experiments") / "configs" / f"{name_or_path}.yaml"
        found = plain_yaml.parse(source.read_text(encoding="utf-8"), str(name_or_path))
    elif Path(name_or_path).is_file():
        found = plain_yaml.read(Path(name_or_path))
    else:
        raise ConfigError(
            f"{str(name_or_path)!r} is neither a file nor a packaged config: those are {packaged()}"
        )
    if not isinstance(found, dict):
        raise ConfigError(f"{name_or_path} holds a {type(found).__name__}: a config is a mapping of sections")
    return found


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` before ``below``, key by key; a section of another kind takes nothing from below."""
    if above.get("kind", below.get("kind")) != below.get("kind"):
        return dict(above)
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
