"""Which modalities need the negative of the noise that the others get.

One noise for all modalities is meant to give them one anatomy. But a network turns noise into *grey values*: where it
makes white matter of T1 bright, it makes that of T2 bright as well, and there white matter is dark. The latents of true
slices say so: T2's go against those of T1. The negative of white noise is white noise, so each modality alone is drawn
as before; with it the two go together as they should. Any rotation of the channels would leave noise white, too, but
the one that brings T2's latents closest to T1's (Procrustes, 64 training slices) is all but the plain negative:
correlation .7753, for .7752.

Axes: N slices · M = 4 modalities · C latent channels · h, w latent pixels.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mrtutor.files import write_json
from mrtutor.vocabulary import Modality, modalities_in

REFERENCE = Modality.T1  # the plain picture of the tissues; T1 itself is never mirrored
FILE = "mirrored.json"  # beside an autoencoder's weights, in the folder of a run


def agreement(latents: np.ndarray, brain: np.ndarray) -> dict[Modality, float]:
    """Correlation of each modality's latents with those of T1 in the brain, each channel about its mean, in [-1, 1].

    Args:
        latents: (N, M, C, h, w).
        brain: (N, h, w) bool, places all of whose pixels are brain.

    Raises:
        ValueError: other shapes, or no brain.
    """
    if latents.ndim != 5 or latents.shape[1] != len(Modality) or brain.shape != (len(latents), *latents.shape[3:]):
        raise ValueError(
            f"Expected latents (N, {len(Modality)}, C, h, w) and brain (N, h, w), got {latents.shape}, {brain.shape}."
        )
    if not brain.any():
        raise ValueError("Expected places inside the brain, got none: take slices with a brain.")
    inside = latents.transpose(1, 2, 0, 3, 4)[:, :, brain].astype(np.float64)  # (M, C, places)
    inside -= inside.mean(axis=-1, keepdims=True)
    plain = inside[list(Modality).index(REFERENCE)]
    length = np.sqrt((inside**2).sum(axis=(1, 2)) * (plain**2).sum())
    return dict(zip(Modality, ((inside * plain).sum(axis=(1, 2)) / length.clip(1e-12)).tolist(), strict=True))


def mirrored_modalities(latents: np.ndarray, brain: np.ndarray) -> list[Modality]:
    """Modalities whose latents go against T1's, see `agreement`; none where no place is all brain."""
    if not brain.any():  # at the end of a training: nothing to measure must not lose it
        return []
    return [modality for modality, value in agreement(latents, brain).items() if value < 0]


def signs_of(prompts: Iterable[str], mirrored: Iterable[Modality | str]) -> list[float]:
    """-1 for each sentence that names one modality and this one is mirrored, else 1."""
    against = [{Modality(m)} for m in mirrored]
    return [-1.0 if modalities_in(prompt) in against else 1.0 for prompt in prompts]


def save_mirrored(mirrored: Iterable[Modality], folder: Path) -> None:
    """Write it beside the autoencoder in `folder`."""
    write_json(folder / FILE, {"mirrored": [str(m) for m in mirrored]})


def load_mirrored(folder: Path) -> list[Modality]:
    """What stands beside the autoencoder in `folder`; none where nothing was measured, as for one from elsewhere."""
    path = folder / FILE
    return [Modality(m) for m in json.loads(path.read_text())["mirrored"]] if path.is_file() else []
