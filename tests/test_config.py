"""Configs: the packaged ones are whole and hold the paper's settings, and nothing unknown passes."""

import os
from pathlib import Path
from typing import get_args

import pytest
import torch

import pylocalreg as plr
from pylocalreg.errors import ConfigError
from pylocalreg.experiments import methods
from pylocalreg.experiments.config import DATA_OF, Config, Method, load, packaged

EXPERIMENTS = sorted(DATA_OF)


STAND_INS = ["mnist_node_standin", "mnist_nsde_standin", "physionet_standin"]
ON_A_CPU = ["mnist_node_cpu", "mnist_node_float32"]


def test_each_experiment_has_a_config_and_a_short_one() -> None:
    kinds = [f"{name}{kind}" for name in EXPERIMENTS for kind in ("", "_short")]
    assert packaged() == sorted([*kinds, *STAND_INS, *ON_A_CPU])
    whole = [name for name in EXPERIMENTS if name not in ("ffjord", "ffjord_digits")]
    for name in packaged():
        config = load(name)
        assert config.task.name in (name, name.rpartition("_")[0])
        assert config.data.offline == (name not in [*whole, *ON_A_CPU])


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_is_the_paper_s_experiment_but_for_data_and_batch(name: str) -> None:
    ours, whole = load(name).model_dump(), load(name.removesuffix("_standin")).model_dump()
    for settings in (ours, whole):
        del settings["data"], settings["train"]["batch"]
    assert ours == whole


@pytest.mark.parametrize(
    ("name", "solver", "tolerance", "optimizer", "rate", "batch", "steps", "coefficient"),
    [
        ("mnist_node", "Tsit5", 1e-8, "adam", 1e-3, 512, 7500, (2.5, 1.0)),
        ("mnist_nsde", "SOSRI2", 0.14, "adam", 0.01, 512, 4000, (1000.0, 1000.0)),
        ("physionet", "Tsit5", 1e-8, "adamax", 0.01, 512, 3000, (100.0, 10.0)),
        ("cifar10_conv", "Tsit5", 1e-4, "adam", 3e-3, 32, 31250, (2.5, 2.5)),
        ("cifar10_multiscale", "VCAB3", 0.05, "adam", 1e-3, 128, 19550, (0.1, 5.0)),
    ],
)
def test_the_papers_settings_are_the_defaults(
    name: str,
    solver: str,
    tolerance: float,
    optimizer: str,
    rate: float,
    batch: int,
    steps: int,
    coefficient: tuple[float, float],
) -> None:
    config = load(name, ["method=paper"])
    assert (config.solver.name, config.solver.abstol, config.solver.reltol) == (solver, tolerance, tolerance)
    assert (config.optimizer.name, config.optimizer.learning_rate) == (optimizer, rate)
    assert (config.train.batch, config.train.steps) == (batch, steps)
    falls = methods.coefficient(config)
    assert (falls(0), falls(steps)) == pytest.approx(coefficient)
    assert falls(steps // 2) ** 2 == pytest.approx(coefficient[0] * coefficient[1], rel=1e-3)


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: {name: mnist_node}\nmethod: local_biased\ntrain: {steps: 10}\n"
        "optimizer: {schedule: {kind: cosine, end: 1.0e-5}}\n"
    )
    config, whole = load(path, ["train.seed=3", "solver.abstol=1e-6"]), load("mnist_node")
    assert config.method == "local_biased"
    assert (config.train.steps, config.train.seed, config.train.batch) == (10, 3, whole.train.batch)
    assert (config.solver.abstol, config.solver.reltol) == (1e-6, whole.solver.reltol)
    assert config.optimizer.schedule.kind == "cosine"
    assert config.methods == whole.methods


def test_a_section_of_another_kind_takes_nothing_from_the_packaged_one() -> None:
    config = load("physionet", ["optimizer.schedule={kind: constant}"])
    assert config.optimizer.schedule.kind == "constant"
    assert load("physionet").optimizer.schedule.kind == "inverse"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.step=10", "train.step"),
        ("trian.steps=10", "trian"),
        ("task.hiden=3", "hiden"),
        ("train.steps=0", "train.steps"),
        ("train.steps=2.5", "train.steps"),
        ("train.steps=true", "train.steps"),
        ("train.batch=[1]", "train.batch"),
        ("solver.abstol=-1e-3", "solver.abstol"),
        ("solver.abstol=.nan", "solver.abstol"),
        ("solver.adjoint=symplectic", "symplectic"),
        ("dtype=float16", "float16"),
        ("engine=fortran", "fortran"),
        ("method=local", "local"),
        ("task.name=imagenet", "imagenet"),
        ("data.name=cifar10", "data set"),
        ("methods.steer.spread=0", "spread"),
        ("methods.local_biased.coefficient.end=0", "coefficient.end"),
        ("optimizer.name=sgd", "sgd"),
        ("optimizer.schedule={kind: cosine}", "end"),
        ("train.steps", "section.key=value"),
        ("=3", "section.key=value"),
        ("train.steps={", "not YAML"),
        ("data.name=[&a [1], *a]", r"alias, \*a"),
        ("train={steps: 1, steps: 2}", "'steps' twice"),
        ("train={1: 2}", "key 1 is no word"),
        (f"train.steps={'[' * 100_000}", "12 deep"),
        (f"train.steps={'9' * 5000}", "not YAML"),
        ("train.steps=2001-99-99", "not YAML"),
        ("train.steps=!!bool x", "not YAML"),
        ("train.steps=!!int ''", "not YAML"),
        (f"{'train.' * 5000}steps=1", "that deep"),
        ("train.seed=9223372036854775808", "train.seed"),
        ("task.hidden=1000000000000", "hidden"),
        ("methods.rnode.jacobian=-1", "jacobian"),
    ],
)
def test_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("mnist_node", [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "mapping"), ("a: [", "YAML"), ("train: {steps: 3}", "task.name"), ("task: 3", "task.name")],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


@pytest.mark.skipif(os.name == "nt", reason="no devices with a path")
def test_files_that_are_no_text_or_have_no_end(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"task: {name: \xff}")
    with pytest.raises(ConfigError, match=r"bad\.yaml can not be read.*utf-8"):
        load(path)
    path.write_bytes(b"a: 1\n" * 100_000)
    with pytest.raises(ConfigError, match="more than 131072 bytes"):
        load(path)
    for place in ("/dev/zero", str(tmp_path)):
        link = tmp_path / "link.yaml"
        link.unlink(missing_ok=True)
        link.symlink_to(place)
        with pytest.raises(ConfigError, match="neither a file nor a packaged config"):
            load(link)


def test_a_thousand_million_aliases_are_none(tmp_path: Path) -> None:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(["l0: &l0 [1]", *levels]))
    with pytest.raises(ConfigError, match=r"alias, \*l0"):
        load(path)


@pytest.mark.parametrize("hours", ["1e-6", "0", "49", ".inf"])
def test_bins_that_no_memory_holds_are_refused(hours: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.physionet\.bin_hours"):
        load("physionet", [f"data.bin_hours={hours}"])
    assert load("physionet", ["data.bin_hours=0.016"]).data.bin_hours == 0.016  # type: ignore[union-attr]


def test_data_that_lie_in_no_folder() -> None:
    for name in ("ffjord", "ffjord_digits"):
        assert load(name, ["data.offline=true"]) == load(name)
        for change in ("data.folder=/tmp", "data.offline=false"):
            with pytest.raises(ConfigError, match=change.partition("=")[0].partition(".")[2]):
                load(name, [change])
    with pytest.raises(ConfigError, match=r"density: .*'pinwheel'.*not 'smile'"):
        load("ffjord", ["data.density=smile"])


def test_no_such_config() -> None:
    with pytest.raises(ConfigError, match=r"mnist_nod'.*mnist_node"):
        load("mnist_nod")


def test_a_method_without_settings_is_refused() -> None:
    assert not {"taynode", "rnode"} & set(load("mnist_nsde").available_methods)
    with pytest.raises(ConfigError, match=r"taynode.*local_biased"):
        load("mnist_nsde", ["method=taynode"])
    assert (
        "taynode"
        in load(
            "mnist_nsde", ["methods.taynode={order: 2, coefficient: {start: 1, end: 1}}"]
        ).available_methods
    )


def test_nothing_changes_afterwards() -> None:
    config = load("mnist_node")
    with pytest.raises(ValueError, match="frozen"):
        config.method = "steer"  # type: ignore[misc]


def test_every_method_by_name() -> None:
    generator = torch.Generator()

    def regularizer(method: str) -> plr.Regularizer | None:
        return methods.regularizer(load("mnist_node", [f"method={method}"]), generator)

    assert load("mnist_node").available_methods == list(get_args(Method))
    assert regularizer("vanilla") is None
    assert regularizer("local_unbiased") == plr.LocalRegularizer("unbiased", generator=generator, scale="log")
    assert regularizer("local_biased") == plr.LocalRegularizer("biased", generator=generator, scale="log")
    assert regularizer("paper") == plr.LocalRegularizer.paper("unbiased", generator)
    assert regularizer("global_error") == plr.GlobalRegularizer("error")
    assert regularizer("global_stiffness") == plr.GlobalRegularizer("stiffness")
    assert regularizer("steer") == plr.STEER(0.5, generator)
    assert regularizer("taynode") == plr.TayNODE(2)
    assert regularizer("rnode") == plr.RNODE(1.0, 1.0, generator)


def test_methods_without_a_term_have_no_coefficient() -> None:
    def coefficient(config: Config) -> float:
        return methods.coefficient(config)(0)

    assert coefficient(load("mnist_node")) == 0
    assert coefficient(load("mnist_node", ["method=steer"])) == 0
    assert coefficient(load("mnist_node", ["method=taynode"])) > 0
