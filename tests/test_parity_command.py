"""`pylocalreg parity`: what is compared, printed and written."""

import base64
import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch

from pylocalreg.errors import OptionError
from pylocalreg.parity import Comparison, command, compare, golden_cases, measure, own_cases
from pylocalreg.parity.compare import FIELDS, JUDGED
from pylocalreg.parity.report import summary, verdict
from tests.golden import DATA
from tests.julia import needs_julia

CHECKOUT = os.environ.get("PYLOCALREG_PAPER")


def test_golden_numbers_are_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.run(DATA, ["torch"], "td4_s1_float64_Tsit5_1e-06", None, tmp_path)
    printed = capsys.readouterr().out
    assert "1 of 1 comparisons take the same steps and calls" in printed
    assert "ode_td4_s1_float64_Tsit5_1e-06" in printed

    (row,) = json.loads((tmp_path / "parity.json").read_text())["engines"]
    assert row["sides"]["torch"]["naccept"] == row["sides"]["golden"]["naccept"] == 9
    assert row["differences"]["u"] < 1e-12
    assert row["differences"]["R_by_p"] < 1e-8
    assert row["differences"]["by_p"] is None
    assert row["verdict"] == "the same"
    assert "u: 1 of 1 agree" in printed
    assert "R_by_p: 1 of 1 agree" in printed

    page = (tmp_path / "parity.html").read_text()
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "ode_td4_s1_float64_Tsit5_1e-06" in page


def test_a_difference_is_seen() -> None:
    (case,) = (case for case in golden_cases(DATA) if case.name == "ode_td4_s1_float64_Tsit5_1e-06")
    other = dataclasses.replace(case, p=case.p * (1 + 1e-6), tol=1e-5)
    (comparison,) = compare(other, ["torch"])
    assert not comparison.same_steps
    assert comparison.differences["t"] == float("inf")
    assert 1e-9 < (comparison.differences["u"] or 0) < 1e-3
    assert verdict(comparison).startswith("apart: steps")


@pytest.mark.parametrize("field", JUDGED)
def test_the_same_steps_are_not_yet_the_same(field: str) -> None:
    case = next(case for case in own_cases() if case.name == "dense-Tsit5-float64")
    measured = measure(case, "torch")
    value = getattr(measured, field)
    other = dataclasses.replace(measured, **{field: value * (1 + 7e-4)})
    differences: dict[str, float | None] = dict.fromkeys(FIELDS, 0.0)
    assert verdict(Comparison(case, measured, measured, differences)) == "the same"
    apart = Comparison(case, measured, other, differences | {field: 7e-4})
    assert apart.same_steps
    assert verdict(apart) == f"apart: {field}"
    assert f"{field}: 0 of 1 agree" in summary([apart])


def test_what_rounding_decides_is_not_judged() -> None:
    case = next(case for case in own_cases() if case.name == "dense-Tsit5-float32")
    case = dataclasses.replace(case, tol=1.4e-8)
    measured = measure(case, "torch")
    comparison = Comparison(case, measured, measured, dict.fromkeys(FIELDS, 0.5))
    assert comparison.agrees("R") is None
    assert comparison.agrees("R_by_p") is None
    assert comparison.agrees("u") is False
    assert "R: 0 of 0 agree, 1 more are rounding" in summary([comparison])


def test_own_cases_are_measured_in_full() -> None:
    cases = own_cases()
    assert {case.u0.dtype for case in cases} == {torch.float32, torch.float64}
    measured = measure(next(case for case in cases if case.name == "conv-Tsit5-float64"), "torch")
    assert measured.by_p is not None
    assert measured.by_p.abs().max() > 0
    assert measured.R is not None
    assert measured.R > 0


@pytest.mark.parametrize(
    ("golden", "engines", "only", "words"),
    [
        (None, ["torch"], "", "two engines"),
        (DATA, ["torch"], "no such case", "no case"),
        (DATA.parent, ["torch"], "", "no golden numbers"),
    ],
)
def test_refusals(golden: Path | None, engines: list[str], only: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        command.run(golden, engines, only, None, tmp_path)
    assert not list(tmp_path.iterdir())


@needs_julia
@pytest.mark.parametrize("name", ["dense-Tsit5-float64", "conv-BS3-float64", "groupnorm-VCABM3-float64"])
def test_both_engines(name: str) -> None:
    (comparison,) = compare(next(case for case in own_cases() if case.name == name), ["torch", "julia"])
    assert comparison.same_steps
    for field in ("u", "by_u0", "by_p"):
        assert (comparison.differences[field] or 0) < 1e-8


@needs_julia
@pytest.mark.skipif(CHECKOUT is None, reason="PYLOCALREG_PAPER names no checkout of the paper's package")
def test_the_papers_code() -> None:
    from pylocalreg.parity.paper import compare_with_paper

    cases = [case for case in golden_cases(DATA) if "td4_s1_float64_Tsit5_1e-06" in case.name]
    comparisons = compare_with_paper(cases, ["torch", "julia"], Path(str(CHECKOUT)))
    assert len(comparisons) == 2
    for comparison in comparisons:
        assert comparison.dt < 1e-9
        assert comparison.value < 1e-4  # of the short automatic step, the small rest of a large sum
        assert comparison.gradient < 1e-6
        assert comparison.stiffness < 1e-4  # a quotient of two small differences
        assert comparison.stiffness_gradient < 1e-3


@needs_julia
def test_a_folder_that_is_not_the_papers(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="perform_step"):
        command.run(DATA, ["torch"], "td4_s1_float64_Tsit5_1e-06", tmp_path, tmp_path)
