"""What takes a data set's place offline; each one's name says so in every table that used it."""

from pathlib import Path

import numpy as np
import torch

from pylocalreg.experiments.task import DataSet

RECORDS = 1000
RECORDS_NAME = f"stand-in for PhysioNet 2012: {RECORDS} simulated records"
PATCH, STRIDE, BLOCK, BANDS = 32, 4, 128, 5

VITALS = {
    "HR": (86.0, 14.0, 1.0),
    "SysABP": (118.0, 18.0, 1.5),
    "DiasABP": (60.0, 10.0, 1.5),
    "MAP": (79.0, 12.0, 1.5),
    "RespRate": (19.0, 4.0, 2.0),
    "Temp": (37.0, 0.6, 3.0),
    "SaO2": (97.0, 1.5, 6.0),
    "NISysABP": (119.0, 18.0, 3.0),
    "NIDiasABP": (58.0, 11.0, 3.0),
    "NIMAP": (77.0, 12.0, 3.0),
    "GCS": (11.0, 2.5, 4.0),
    "Urine": (110.0, 60.0, 2.0),
    "Glucose": (140.0, 35.0, 8.0),
    "pH": (7.38, 0.06, 6.0),
    "PaO2": (140.0, 40.0, 7.0),
    "PaCO2": (40.0, 6.0, 7.0),
    "FiO2": (0.5, 0.1, 5.0),
    "K": (4.1, 0.5, 10.0),
    "Na": (139.0, 4.0, 12.0),
    "HCO3": (23.0, 3.5, 14.0),
    "BUN": (27.0, 12.0, 16.0),
    "Creatinine": (1.4, 0.6, 16.0),
    "HCT": (31.0, 4.0, 12.0),
    "Platelets": (190.0, 60.0, 18.0),
    "WBC": (12.0, 4.0, 18.0),
    "Lactate": (2.5, 1.2, 15.0),
}
"""Mean and deviation of a parameter, and the mean hours between its observations."""


def digits() -> DataSet:
    """scikit-learn's 1,797 digits, from 8 x 8 to MNIST's 28 x 28 by linear interpolation."""
    from pylocalreg.experiments.digits import load

    found = load()

    def resized(images: torch.Tensor) -> torch.Tensor:
        square = images.reshape(-1, 1, 8, 8)
        large = torch.nn.functional.interpolate(square, size=(28, 28), mode="bilinear")
        return (255 * large).round().to(torch.uint8).flatten(1)

    return DataSet(
        (resized(found.train_x), found.train_y),
        (resized(found.test_x), found.test_y),
        "stand-in for MNIST: scikit-learn's digits at 28 x 28",
    )


def patches() -> DataSet:
    """Patches of scikit-learn's two photographs (427 x 640), 32 x 32; which photograph, and which fifth of
    its height, are the ten classes. Of every 128 columns the last 32 are for the test: no pixel is in both.
    """
    from sklearn.datasets import load_sample_images

    train: list[tuple[torch.Tensor, int]] = []
    test: list[tuple[torch.Tensor, int]] = []
    for number, photograph in enumerate(load_sample_images().images):
        pixels = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
        _, height, width = pixels.shape
        band_height = height // BANDS
        for band in range(BANDS):
            label = number * BANDS + band
            for top in range(band * band_height, (band + 1) * band_height - PATCH + 1, STRIDE):
                for left in range(0, width - PATCH + 1, STRIDE):
                    patch = pixels[:, top : top + PATCH, left : left + PATCH]
                    if left % BLOCK <= BLOCK - 2 * PATCH:
                        train.append((patch, label))
                    elif left % BLOCK == BLOCK - PATCH:
                        test.append((patch, label))
    return DataSet(
        _shuffled(train), _shuffled(test), "stand-in for CIFAR10: patches of scikit-learn's photographs"
    )


def _shuffled(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    images, labels = zip(*samples, strict=True)
    return torch.stack(images)[order], torch.tensor(labels)[order]


def write_records(folder: Path, records: int = RECORDS, seed: int = 0) -> None:
    """Records in the challenge's format, in ``folder``/set-a.

    A record's parameters follow three hidden damped oscillations of its own, with loadings common to all
    records, and are observed at random times, seldom for laboratory values.
    """
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(len(VITALS), 3)) / np.sqrt(3)
    place = folder / "set-a"
    place.mkdir(parents=True)
    for record in range(100_000, 100_000 + records):
        amplitude, phase = rng.normal(size=3), rng.uniform(0, 2 * np.pi, 3)
        level, weight = 0.5 * rng.normal(size=3), rng.normal(80, 15)
        lines = [("00:00", name, value) for name, value in _descriptors(rng, record, weight)]
        observed: list[tuple[int, str, float]] = []
        for (name, (mean, deviation, gap)), loading in zip(VITALS.items(), loadings, strict=True):
            if rng.random() < 0.15:  # not every parameter is ever taken
                continue
            hours = np.cumsum(rng.exponential(gap, size=int(4 * 48 / gap) + 4))
            hours = hours[hours < 48]
            period, decay = np.array([12.0, 24.0, 48.0]), np.array([20.0, 40.0, 80.0])
            waves = amplitude * np.exp(-hours[:, None] / decay)
            waves = waves * np.cos(2 * np.pi * hours[:, None] / period + phase) + level
            values = mean + deviation * (waves @ loading + 0.1 * rng.normal(size=len(hours)))
            observed += [(int(60 * hour), name, value) for hour, value in zip(hours, values, strict=True)]
        lines += [
            (f"{minute // 60:02d}:{minute % 60:02d}", name, f"{max(value, 0.0):.4g}")
            for minute, name, value in sorted(observed)
        ]
        text = "".join(f"{time},{name},{value}\n" for time, name, value in lines)
        (place / f"{record}.txt").write_text("Time,Parameter,Value\n" + text)


def _descriptors(rng: np.random.Generator, record: int, weight: float) -> list[tuple[str, str]]:
    return [
        ("RecordID", str(record)),
        ("Age", str(rng.integers(20, 90))),
        ("Gender", str(rng.integers(0, 2))),
        ("Height", "-1"),
        ("ICUType", str(rng.integers(1, 5))),
        ("Weight", f"{weight:.1f}" if rng.random() < 0.9 else "-1"),
    ]
