"""Tables and figures from records: what is averaged with what, every number, and the files."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from pylocalreg.errors import CheckpointError, ConfigError
from pylocalreg.experiments import figures, paper, tables
from pylocalreg.experiments.comparison import EXPERIMENTS, METHODS, OF_THE_PAPER, compare
from pylocalreg.experiments.metrics import METRICS, Metric
from pylocalreg.experiments.records import Record


def _record(method: str = "vanilla", seed: int = 0, **changes: Any) -> Record:
    nfe = (100.0 if method == "vanilla" else 40.0) + seed
    settings = {
        "task": {"name": "mnist_node"},
        "data": {"name": "mnist", "offline": True},
        "solver": {"name": "Tsit5", "abstol": 1e-8, "reltol": 1e-8},
        "method": method,
        "methods": {"local_unbiased": {"coefficient": {"start": 2.5, "end": 1.0}}},
        "train": {"steps": 10, "batch": 512, "seed": seed, "evaluate_every": 5},
        "dtype": "float64",
    }
    values: dict[str, Any] = {
        "samples": "digits: 10, 2, 3 samples, 0123456789abcdef",
        "experiment": "mnist_node",
        "method": method,
        "seed": seed,
        "data": "digits, a stand-in",
        "metric": "accuracy",
        "device": "CPU, 1 thread",
        "processes": 1,
        "parameters": 10,
        "train_score": 98.0 + seed,
        "validation_score": 97.0 + seed,
        "test_score": 96.0 + seed,
        "train_seconds": 50.0 if method == "vanilla" else 20.0,
        "prediction_seconds": 0.5 if method == "vanilla" else 0.2,
        "prediction_batch": 512,
        "test_nfe": nfe,
        "settings": settings,
        "history": _history(90.0, 95.0, 100.0, nfe=nfe),
    }
    return Record(**{**values, **changes})


def _history(*scores: float, nfe: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"kind": "validation", "step": 5 * i, "score": score, "loss": 0.1, "nfe": nfe, "seconds": 5 * i}
        for i, score in enumerate(scores)
    ]


NONE = paper.load().model_copy(update={"cells": {}})

RECORDS = [_record(method, seed) for method in ("local_unbiased", "vanilla") for seed in (0, 1, 2)]


def test_the_table_has_every_number() -> None:
    (section,) = tables.table(2, RECORDS, NONE)
    assert "digits, a stand-in" in section.conditions
    assert "10 steps of batch 512" in section.conditions
    assert "71.0 NFE before training" in section.conditions  # (100 + 101 + 102 + 40 + 41 + 42) / 6
    vanilla, local, abstract = section.rows
    assert vanilla == (
        "vanilla",
        "99.00 ± 1.00",
        "97.00 ± 1.00",
        "50 ± 0",
        "0.5 ± 0",
        "101.0 ± 1.0",
        "1.00",
        "1.00",
        "1.00",
        "3",
    )
    assert local[0] == "local, unbiased"
    assert local[5:] == ("41.0 ± 1.0", "0.41", "0.40", "2.50", "3")
    assert abstract[6] == "[0.556 to 0.733]"
    assert abstract[8] == "[1.3 to 2]"
    assert {len(row) for row in section.rows} == {len(section.header)}


def test_one_run_has_no_deviation_and_without_vanilla_there_is_no_ratio() -> None:
    (section,) = tables.table(2, [_record("local_biased")], NONE)
    assert section.rows[0][1:] == ("98.00", "96.00", "20", "0.2", "40.0", "", "", "", "1")


def test_an_error_is_not_shown_as_an_accuracy() -> None:
    record = _record(experiment="physionet", metric="mse", test_score=0.0123456)
    (section,) = tables.table(3, [record], NONE)
    assert section.header[1:3] == ("train MSE", "test MSE")
    assert section.rows[0][2] == "0.0123"


@pytest.mark.parametrize(
    ("metric", "label", "cell", "line"),
    [
        ("nll", "NLL, nats", "-1.500", "NLL -1.500 nats"),
        ("bpd", "NLL, bits/dim", "-1.500", "NLL -1.500 bits/dim"),
    ],
)
def test_a_likelihood_may_be_greater_than_one(
    metric: Metric, label: str, cell: str, line: str, tmp_path: Path
) -> None:
    """And an experiment that is none of the paper's has no row of its abstract."""
    record = _record(experiment="ffjord", metric=metric, test_score=-1.5)
    (section,) = tables.table(5, [record], paper.load())
    assert section.header[1:3] == (f"train {label}", f"test {label}")
    assert [row[2] for row in section.rows] == [cell]
    assert METRICS[metric].written(record.test_score) == line
    for path in figures.draw(8, [record], tmp_path, NONE):
        assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("metric", "score"), [("accuracy", 101.0), ("accuracy", -1.0), ("mse", -1e-3), ("nll", float("nan"))]
)
def test_scores_that_can_not_be(metric: Metric, score: float) -> None:
    with pytest.raises(ValueError, match="score"):
        _record(metric=metric, train_score=1.0, validation_score=1.0, history=_history(1.0), test_score=score)
    with pytest.raises(ValueError, match="score"):
        _record(metric=metric, train_score=1.0, validation_score=1.0, history=_history(score), test_score=1.0)


def test_the_papers_cells_stand_beside(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(
        "abstract: {nfe_ratio: [0.5, 0.7], prediction_speedup: [1, 2]}\n"
        "cells: {mnist_node: {\n"
        "  vanilla: {test_nfe: [250, 1.5], test_accuracy: [97.5, 0.25], train_hours: [0.5, 0.1]},\n"
        "  local_unbiased: {test_nfe: [125, 1], train_hours: [1, 0.1]},\n"
        "  steer: {from_2021: true, test_nfe: [200, 1]}}}\n"
    )
    records = [*RECORDS, _record("paper", settings=_paper_settings("unbiased"))]
    (section,) = tables.table(2, records, paper.load(path))
    vanilla, local, code, steer, _ = section.rows
    assert vanilla[2] == "97.00 ± 1.00 [97.50 ± 0.25]"
    assert vanilla[3] == "50 ± 0 [1.8e+03 ± 360]"
    assert vanilla[5:7] == ("101.0 ± 1.0 [250.0 ± 1.5]", "1.00 [1.00]")
    assert local[6:9] == ("0.41 [0.50]", "0.40 [2.00]", "2.50")
    assert "[" not in local[2]
    assert code[0] == "local, the paper's code"
    assert code[6] == "0.40 [0.50]"
    assert steer == ("STEER †", "", "", "", "", "[200.0 ± 1.0]", "[0.80]", "", "", "")
    path.write_text("cells: {mnist_node: {vanilla: {accuracy: 97.5}}}")
    with pytest.raises(ConfigError, match="accuracy"):
        paper.load(path)
    with pytest.raises(ConfigError, match="none"):
        paper.load(tmp_path / "none.yaml")


def _paper_settings(sampling: str) -> dict[str, Any]:
    return {**_record("paper").settings, "methods": {"paper": {"sampling": sampling}}}


def test_the_packaged_numbers_are_whole() -> None:
    """Every row of the paper's tables, in the units of records; table 1 by adjoint."""
    found = paper.load()
    assert tuple(found.cells) == OF_THE_PAPER
    assert [len(rows) for rows in found.cells.values()] == [7, 5, 7, 3, 3]
    assert all(set(rows) <= set(METHODS) for rows in found.cells.values())
    node, latent = found.cells["mnist_node"], found.cells["physionet"]
    assert node["local_biased"].of("train_seconds", 7500) == pytest.approx((4032, 234))
    assert latent["vanilla"].of("test_score", 3000) == pytest.approx((3.41e-3, 1e-4))
    convolutional = found.cells["cifar10_conv"]["vanilla"]
    assert convolutional.of("train_seconds", 1000) == pytest.approx((457, 18))
    old = {
        (name, row) for name, rows in found.cells.items() for row, cells in rows.items() if cells.from_2021
    }
    assert len(old) == 10
    assert not any("local" in row or row == "vanilla" for _, row in old)
    assert found.memory["discrete"].with_local == "O(s (t + 1) stages)"
    for rows in found.cells.values():
        for cells in rows.values():
            for attribute in ("test_score", "train_seconds", "prediction_seconds", "test_nfe"):
                assert cells.of(attribute, 1000) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"device": "a GPU"},
        {"data": "MNIST"},
        {"processes": 2},
        {"settings": {**_record().settings, "dtype": "float32"}},
    ],
)
def test_only_like_runs_are_compared(other: dict[str, Any]) -> None:
    assert len(compare(RECORDS)) == 1
    assert len(compare([*RECORDS, _record(seed=3, train_score=99.0, **other)])) == 2


def test_a_title_tells_a_gpu_and_compiled_steps() -> None:
    devices = ["CPU, 1 thread", "CPU, 1 thread, compiled", "NVIDIA H100, compiled", "NVIDIA H100"]
    titles = {c.any_run.device: c.title for c in compare([_record(device=device) for device in devices])}
    assert [titles[device] for device in devices] == [
        "MNIST, neural ODE",
        "MNIST, neural ODE, compiled",
        "MNIST, neural ODE, NVIDIA H100, compiled",
        "MNIST, neural ODE, NVIDIA H100",
    ]


def test_a_title_tells_a_precision_that_is_not_the_config_s() -> None:
    single = _record(settings={**_record().settings, "dtype": "float32"})
    assert {c.title for c in compare([_record(), single])} == {
        "MNIST, neural ODE",
        "MNIST, neural ODE, float32",
    }


def test_other_settings_of_a_method_are_a_row_of_their_own() -> None:
    record = _record("local_unbiased", 3, train_score=99.0)
    record.settings["methods"] = {"local_unbiased": {"coefficient": {"start": 9.0, "end": 9.0}}}
    (comparison,) = compare([*RECORDS, record])
    assert [len(method.runs) for method in comparison.methods] == [3, 3, 1]
    assert "9.0" in comparison.methods[2].label


def test_both_forms_have_the_same_cells() -> None:
    sections = tables.table(2, RECORDS, NONE)
    text, source = tables.markdown(2, sections), tables.latex(2, sections)
    lines = [line for line in text.splitlines() if line.startswith("| vanilla")]
    assert lines == ["| " + " | ".join(sections[0].rows[0]) + " |"]
    assert r"99.00 $\pm$ 1.00 & 97.00 $\pm$ 1.00" in source
    assert r"train accuracy, \%" in source
    assert source.count(r"\\") == 1 + len(sections[0].rows)


def test_a_table_without_records_is_refused() -> None:
    with pytest.raises(CheckpointError, match="table 4"):
        tables.table(4, RECORDS, paper.load())
    assert tables.printable(RECORDS) == [2]


def test_every_experiment_is_in_a_table_and_a_figure() -> None:
    assert [name for names in tables.TABLES.values() for name in names] == list(EXPERIMENTS)
    assert list(figures.TRAINING.values()) == list(EXPERIMENTS)
    assert figures.FIGURES == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert list(EXPERIMENTS)[:5] == list(OF_THE_PAPER)


def test_figures_are_whole_files(tmp_path: Path) -> None:
    assert figures.drawable(RECORDS) == [1, 2, 3]
    for number in (1, 2, 3):
        png, pdf = figures.draw(number, RECORDS, tmp_path, NONE)
        assert png.read_bytes().startswith(b"\x89PNG")
        assert pdf.read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(CheckpointError, match="figure 7"):
        figures.draw(7, RECORDS, tmp_path, NONE)
    with pytest.raises(CheckpointError, match="vanilla"):
        figures.draw(1, RECORDS[:3], tmp_path, NONE)


def test_a_method_has_one_colour_in_all_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    colours: dict[str, set[str]] = {}
    plot = Axes.plot

    def watched(self: Axes, *given: Any, **named: Any) -> Any:
        if "label" in named:
            colours.setdefault(named["label"], set()).add(named["color"])
        return plot(self, *given, **named)

    monkeypatch.setattr(Axes, "plot", watched)
    elsewhere = [_record(method, device="a GPU") for method in ("vanilla", "local_biased")]
    figures.draw(3, [*RECORDS, *elsewhere], tmp_path, NONE)
    assert len(colours) == 3
    assert all(len(own) == 1 for own in colours.values())
    assert len(set.union(*colours.values())) == 3


def test_the_bars_are_the_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the paper's ratios are marks on them."""
    widths: list[float] = []
    marks: list[Any] = []
    bar, plot = Axes.barh, Axes.plot

    def marked(self: Axes, *given: Any, **named: Any) -> Any:
        marks.append(given[0])
        return plot(self, *given, **named)

    def watched(self: Axes, at: float, width: float, *others: Any, **named: Any) -> Any:
        widths.append(width)
        return bar(self, at, width, *others, **named)

    monkeypatch.setattr(Axes, "barh", watched)
    monkeypatch.setattr(Axes, "plot", marked)
    figures.draw(1, RECORDS, tmp_path, paper.load())
    nfe = statistics.mean([40.0, 41.0, 42.0]) / statistics.mean([100.0, 101.0, 102.0])
    assert widths == pytest.approx([nfe - 1, -0.6, -0.6])
    assert marks == pytest.approx([187.961 / 303.559, 0.49 / 0.54, 0.046 / 0.088])
