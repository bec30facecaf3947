"""The README's ten lines, and the docs' example of events, run as they stand."""

from pathlib import Path
from typing import Any

import pytest
import torch


def example(page: str) -> str:
    """The first of the page."""
    return (Path(__file__).parents[1] / page).read_text().split("```python\n")[1].split("```")[0]


def test_readme_example() -> None:
    code = example("README.md")
    names: dict[str, Any] = {
        "x": torch.rand(8, 784),
        "y": torch.arange(8),
        "cross_entropy": torch.nn.functional.cross_entropy,
    }
    exec(code, names)
    assert names["head"].weight.grad is not None
    assert names["node"].get_parameter("dynamics.p").grad is not None


def test_events_example(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(example("docs/events.md"), names)
    times = [round(float(bounced.t), 4) for bounced in names["solution"].events]
    assert times == [0.4515, 1.174, 1.7519]
    assert names["gravity"].grad != 0
    assert names["kept"].grad != 0
