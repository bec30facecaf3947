"""scikit-learn's digits as they are: 1,797 images of 8 x 8, pixels from 0 to 16."""

import torch

from pylocalreg.experiments.config import SmallDigits
from pylocalreg.experiments.task import DataSet

LEVELS = 17
"""The values of a pixel."""


def load(source: SmallDigits) -> DataSet:
    """Bytes of shape ``(n, 64)``, a fifth of each digit for the test."""
    from pylocalreg.experiments.digits import load

    found = load()
    train, test = (((LEVELS - 1) * part).round().to(torch.uint8) for part in (found.train_x, found.test_x))
    return DataSet((train,), (test,), "scikit-learn's digits, 8 x 8")
