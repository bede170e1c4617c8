"""What tests share: a tiny cohort, tiny weights, the shipped examples, and the real patients where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

# MKL reads this once, at its first sum: set here, all processes of the suite round alike, and so do those they start.
os.environ.setdefault("MKL_CBWR", "AUTO")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"


def fake_slices(number: int, slices: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 4, 256, 256) and tumour masks (n, 256, 256) uint8 of one smooth fake patient, in no time."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    brain = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    images, masks = np.zeros((slices, 4, 256, 256), np.uint8), np.zeros((slices, 256, 256), np.uint8)
    for row in range(slices):
        centre = rng.uniform(-0.3, 0.3, 2)
        distance = np.hypot(x - centre[0], y - centre[1])
        folds = 0.12 * np.sin(14 * x + number) * np.cos(11 * y - row)
        masks[row][distance < 0.22] = 2
        masks[row][distance < 0.14] = 3
        masks[row][distance < 0.08] = 1
        for channel, (tissue, lesion) in enumerate([(0.45, 0.9), (0.6, 0.4), (0.5, 0.85), (0.35, 0.95)]):
            image = tissue + folds + (lesion - tissue) * (masks[row] > 0) + rng.normal(0, 0.01, (256, 256))
            images[row, channel] = np.where(brain, np.clip(image, 0.03, 1), 0) * 255
    return images, masks


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """A `Cohort` of 8 fake patients x 2 slices: 4 mutant, 4 wild; 4 to train, 2 to validate, 2 to test."""
    import pandas as pd

    from mrtutor.data.cohort import write_cohort

    splits = ("train", "train", "validation", "test")
    parts = [fake_slices(number) for number in range(8)]
    table = pd.DataFrame(
        {
            "subject_id": [f"fake-{n}" for n in range(8) for _ in range(2)],
            "patient": [f"fake-{n}" for n in range(8) for _ in range(2)],
            "idh": [("mutant", "wild")[n % 2] for n in range(8) for _ in range(2)],
            "split": [splits[n // 2] for n in range(8) for _ in range(2)],
            "source": "simulated",
            "z_mm": [5.0 * row for _ in range(8) for row in range(2)],
            "tumour_px": [int((masks > 0).sum()) for _, part in parts for masks in part],
            "sequences": "FLAIR T1 T1Gd T2",
            "side": "left",
            "place": "middle",
            "size": "small",
            "enhancement": "ring-enhancing",
            "necrosis": True,
            "oedema": True,
        }
    )
    images, masks = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return write_cohort(tmp_path_factory.mktemp("cohort") / "tiny", images, masks, table)


@pytest.fixture(scope="session")
def smoke_pipe():
    """Tiny random weights in memory. Do not change them."""
    from mrtutor import load_pretrained

    pipe = load_pretrained("smoke", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def examples():
    """The slices that ship with the course."""
    from mrtutor import Cohort

    return Cohort.examples()


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real patients; they are not part of the repository."""
    if not REAL.is_dir():
        pytest.skip("the real patients are not on this machine")
    return REAL
