"""The MR feature network: what the Fréchet distance, KID and the two-sample test see of a slice.

A small residual network, trained on the cohort's *training* slices to read three things at once: the modality, the IDH
type and how large the tumour is. Its pooled 128 features are what is compared. It is no part of any generator, and no
generator was ever conditioned on it or trained by it. But the independent reader is its kin: that, too, learns modality
and IDH type from these slices (with another seed, at half the resolution, the type from four slices at once).

Axes: B, n slices · D = 128 features · H, W image pixels (256). Images are in [0, 1], or uint8.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import ResNetModel

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import SIZE
from mrtutor.metrics.judges import checked_folder, shipped
from mrtutor.training.batches import cohort_key
from mrtutor.vocabulary import Modality

FOLDER = "features"  # below data/pretrained
REFERENCE = "reference.safetensors"  # features of some cohort slices


@dataclass(eq=False)
class Features:
    """Slices to feature vectors; what was computed once for an array is remembered while this object lives."""

    network: nn.Module
    batch_size: int = 32
    _known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 256, 256) in [0, 1] -> (B, D) float32.

        Raises:
            ValueError: another shape, or values that are no floats.
        """
        if images.ndim != 3 or tuple(images.shape[1:]) != (SIZE, SIZE) or not images.is_floating_point():
            raise ValueError(
                f"Expected slices (B, {SIZE}, {SIZE}) as floats in [0, 1], got {tuple(images.shape)} {images.dtype}: "
                "pass one modality at a time; for uint8 use `Features.of`."
            )
        return self.network(images[:, None].float() * 2 - 1).pooler_output.flatten(1)

    def of(self, slices: np.ndarray, desc: str = "features") -> np.ndarray:
        """(n, 256, 256) uint8, or (n, M, 256, 256) uint8 -> (n, D) or (n, M, D) float64.

        Raises:
            ValueError: another shape or type.
        """
        slices = np.ascontiguousarray(slices)
        if slices.dtype != np.uint8 or slices.ndim not in (3, 4) or slices.shape[-2:] != (SIZE, SIZE):
            raise ValueError(
                f"Expected slices (n, {SIZE}, {SIZE}) or (n, M, {SIZE}, {SIZE}) uint8, got {slices.shape} "
                f"{slices.dtype}: multiply images in [0, 1] by 255 and round."
            )
        key = f"{slices.shape}{hashlib.sha1(slices, usedforsecurity=False).hexdigest()}"
        if key not in self._known:
            flat = slices.reshape(-1, SIZE, SIZE)
            parts = np.array_split(flat, max(1, len(flat) // self.batch_size))
            bar = tqdm(parts, desc=desc, leave=False, disable=len(flat) < 256)
            found = torch.cat([self(torch.tensor(part).float() / 255) for part in bar]).double().numpy()
            self._known[key] = found.reshape(*slices.shape[:-2], -1)
        return self._known[key]

    def of_rows(self, cohort: Cohort, rows: np.ndarray, desc: str = "features") -> np.ndarray:
        """Features of a cohort's rows, (n, 4, D) float64, without ever holding all their pixels."""
        key = f"{cohort_key(cohort)}{hashlib.sha1(np.ascontiguousarray(rows), usedforsecurity=False).hexdigest()}"
        if key not in self._known:
            parts = np.array_split(rows, max(1, len(rows) // self.batch_size))
            bar = tqdm(parts, desc=desc, leave=False, disable=len(rows) < 256)
            flat = [self(torch.from_numpy(np.array(cohort.images[part])).flatten(0, 1).float() / 255) for part in bar]
            self._known[key] = torch.cat(flat).double().numpy().reshape(len(rows), len(Modality), -1)
        return self._known[key]


def features_folder() -> Path:
    """Where the shipped network lies."""
    return shipped(FOLDER)


def load_features(folder: str | Path | None = None) -> Features:
    """The shipped feature network, or one that `feature_training.train_features` wrote; computes in float32 on the CPU.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: a file was truncated or altered.
    """
    folder = _checked(folder)
    return Features(ResNetModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).float().eval())


def _checked(folder: str | Path | None) -> Path:
    remedy = "mrtutor.metrics.feature_training.train_features(cohort, folder)"
    return checked_folder(folder, FOLDER, "feature network", remedy)


def load_reference(folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """What `feature_training.write_reference` kept, so that distances to the cohort need no cohort.

    Returns:
        "train" and "held_out" (n, 4, D) float64; "train_patients" and "held_out_patients" (n,), a number per patient.

    Raises:
        FileNotFoundError, ValueError: as `load_features`.
    """
    kept = load_file(_checked(folder) / REFERENCE)
    return {name: x.double().numpy() if x.is_floating_point() else x.numpy() for name, x in kept.items()}
