"""Tiny studies for tests: ellipses for brains, with all that could betray a picture's origin."""

from pathlib import Path

import cv2
import numpy as np

from mrtutor.study.pool import SIMULATED, Pool
from mrtutor.study.store import create_study
from mrtutor.vocabulary import IDH, Modality


def brain(rng: np.random.Generator, real: bool) -> np.ndarray:
    """(256, 256) uint8; the cohort's has grain, a sharp cut and a background of 0, the other is smooth with a glow."""
    across, along = (int(x) for x in rng.integers(60, 85, 2))
    image = np.zeros((256, 256), np.float32)
    cv2.ellipse(image, (128, 128), (across, along), 0, 0, 360, 150.0, -1)
    cv2.circle(image, (128 + int(rng.integers(-30, 30)), 110), 14, 230.0, -1)
    if real:
        image += (image > 0) * rng.normal(0, 8, image.shape)
    else:
        image = cv2.GaussianBlur(image, (0, 0), 2) + rng.uniform(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def tiny_pool(count: int = 6, seed: int = 0) -> Pool:
    """Balanced over types and modalities."""
    rng = np.random.default_rng(seed)
    synthetic = np.stack([np.stack([brain(rng, real=False) for _ in Modality]) for _ in range(count)])
    cohort = np.stack([brain(rng, real=True) for _ in range(count)])
    types = tuple(list(IDH)[i % 2] for i in range(count))
    modality = tuple(list(Modality)[i % 4] for i in range(count))
    return Pool(synthetic, types, cohort, modality, SIMULATED, {"seed": seed})


def tiny_study(folder: Path, count: int = 6, minutes: float = 30, seed: int = 0) -> Path:
    """A prepared folder."""
    create_study(folder, tiny_pool(count), questions=count, minutes=minutes, seed=seed)
    return folder
