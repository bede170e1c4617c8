"""The readers: small networks that read modality, IDH type and findings from pictures, and nulls of what they read.

They never guide a generator: a second opinion. Axes: n sequences · M = 4 modalities · H, W image pixels (256).
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import ResNetForImageClassification

from mrtutor.data.cohort import Cohort
from mrtutor.metrics.distances import in_batches, shipped
from mrtutor.metrics.sequence import brain_of
from mrtutor.vocabulary import IDH, PARTS

SIDE = 128  # pixels that the readers see: enough to read a contrast, at a quarter of the cost
# What a sentence says besides modality and type, each with its values, as in training.
WORDS = {name: [False, True] for name in ("tumour", "simulated")} | {name: list(words) for name, words in PARTS.items()}


@dataclass(frozen=True)
class Reader:
    """Reads words from pictures, uint8 or in [0, 1]; the type from whole sequences, as one slice often hides it."""

    modality: nn.Module
    idh: nn.Module
    words: nn.Module

    def read_modality(self, slices: np.ndarray) -> np.ndarray:
        """Slices (n, H, W) -> index in `Modality`, (n,)."""
        return _read(self.modality, slices[:, None]).argmax(axis=-1)

    def read_idh(self, sequences: np.ndarray) -> np.ndarray:
        """Sequences (n, M, H, W) -> index in `IDH`, (n,)."""
        return _read(self.idh, sequences).argmax(axis=-1)

    def read_words(self, sequences: np.ndarray) -> dict[str, np.ndarray]:
        """Sequences (n, M, H, W) -> for each of `WORDS` the index among its values, (n,)."""
        ends = np.cumsum([len(values) for values in WORDS.values()])[:-1]
        scores = np.split(_read(self.words, sequences), ends, axis=-1)
        return {name: one.argmax(axis=-1) for name, one in zip(WORDS, scores, strict=True)}


@torch.inference_mode()
def _read(network: nn.Module, images: np.ndarray) -> np.ndarray:
    small = [F.interpolate(part, size=(SIDE, SIDE), mode="area") for part in in_batches(images)]
    return torch.cat([network(part).logits for part in small]).numpy()


def load_reader(folder: str | Path | None = None) -> Reader:
    """The shipped readers, or others in the same format. Raises: as `shipped`."""
    folder, load = shipped("readers", folder), ResNetForImageClassification.from_pretrained
    names = [field.name for field in fields(Reader)]
    return Reader(**{name: load(folder / name, local_files_only=True).float().eval() for name in names})


def paint_over(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Sequences (n, M, H, W) whose tumour (masks (n, H, W) not 0), and 4 pixels around, has the brain's median grey."""
    painted = np.array(images)
    for sequence, mask in zip(painted, masks, strict=True):
        brain, area = brain_of(sequence), binary_dilation(mask > 0, iterations=4)
        for image in sequence:
            image[area & brain] = np.median(image[brain & ~area])
    return painted


def healthy_medians(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Median grey outside the tumour of (n, M, H, W) with tumour labels (n, H, W): (n, M), NaN where missing."""
    pairs = zip(images, masks, strict=True)
    return np.array([[np.median(x[(x > 0) & (mask == 0)]) if x.any() else np.nan for x in s] for s, mask in pairs])


def median_reader(cohort: Cohort, rows: np.ndarray) -> Pipeline | None:
    """A regression from `healthy_medians` to the index in `IDH`: it reads a shortcut. None without both types."""
    types = cohort.table["idh"].to_numpy()[rows]
    rows, labels = rows[types != ""], (types[types != ""] == IDH.WILD).astype(int)
    if len(set(labels)) < 2:
        return None
    steps = SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(class_weight="balanced")
    return make_pipeline(*steps).fit(healthy_medians(cohort.images[rows], cohort.masks[rows]), labels)
