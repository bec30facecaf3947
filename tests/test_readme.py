"""The README's ten lines run as they stand."""

from pathlib import Path
from typing import Any

import torch


def test_readme_example() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {
        "x": torch.rand(8, 784),
        "y": torch.arange(8),
        "cross_entropy": torch.nn.functional.cross_entropy,
    }
    exec(code, names)
    assert names["head"].weight.grad is not None
    assert names["node"].get_parameter("dynamics.p").grad is not None
