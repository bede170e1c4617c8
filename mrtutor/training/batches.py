"""Where a stage's batches come from: slices of a cohort, or latents computed once.

Every draw uses the generator it is given, so a batch is a function of (seed, step).

Axes: N slices · M = 4 modalities · B batch · H, W image pixels · h, w latent pixels · L tokens · D text width.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import canny
from mrtutor.files import atomic_path, sha256
from mrtutor.models.autoencoder import encode
from mrtutor.vocabulary import IDH, Modality

ENHANCEMENT = 0.2  # grey values by which T1Gd must exceed T1; bias fields and noise stay below


def pick(high: int, count: int, generator: Generator) -> Tensor:
    """`count` integers in [0, high), with replacement."""
    return torch.randint(0, high, (count,), generator=generator)


@dataclass
class SliceBatches:
    """Images of random slices and modalities, whole or cropped.

    A batch: image (B, 1, H, W) in [-1, 1], modality (B,) and idh (B,) as indices of their enums.
    """

    cohort: Cohort
    rows: np.ndarray
    crop: int | None = None
    step: int = 4  # crops start at multiples of it, as the pixel-unshuffle of a whole slice does
    margin: int = 16  # pixels at the border of a slice that no brain reaches

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        rows = self.rows[pick(len(self.rows), count, generator).numpy()]
        modality = pick(len(Modality), count, generator)
        image = torch.from_numpy(self.cohort.images[rows, modality.numpy()])[:, None]
        if self.crop:
            places = (image.shape[-1] - 2 * self.margin - self.crop) // self.step + 1
            y, x = (self.margin + pick(places, 2, generator) * self.step).tolist()
            image = image[..., y : y + self.crop, x : x + self.crop]
        return {"image": image.float() / 127.5 - 1, "modality": modality, "idh": idh_index(self.cohort, rows)}


def cohort_key(cohort: Cohort) -> str:
    """Twelve hex digits that change with the cohort's pixels."""
    return cohort.manifest["sha256"]["slices.npy"][:12]


def recipe_key(cohort: Cohort) -> str:
    """Twelve hex digits that change with what the cohort was made of (cases, seed, preparation), not with rounding.

    Another CPU may give the same simulated patients with a few pixels one grey level off: another `cohort_key`.
    Where the manifest does not name the cases, the pixels decide.
    """
    if "cases_sha256" not in cohort.manifest:
        return cohort_key(cohort)
    recipe = {name: value for name, value in cohort.manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def label_keys(cohort: Cohort) -> dict[str, str]:
    """Twelve hex digits each that change with what else a stage reads of the cohort: labels (IDH, split) and masks."""
    labels = cohort.table[["idh", "split"]].to_csv().encode()
    parts = {"labels": labels, "masks": np.ascontiguousarray(cohort.masks)}
    return {name: hashlib.sha256(part).hexdigest()[:12] for name, part in parts.items()}


def idh_index(cohort: Cohort, rows: np.ndarray) -> Tensor:
    """Index of each row's IDH type in `IDH`, (B,) long."""
    order = list(IDH)
    return torch.tensor([order.index(IDH(word)) for word in cohort.table["idh"].to_numpy()[rows]])


@dataclass(frozen=True)
class PromptTable:
    """Text embeddings computed once: (P, L, D), the rows of each (modality, IDH) pair, and the empty prompt's row 0."""

    embeddings: Tensor
    rows: dict[tuple[int, int], Tensor]

    def draw(self, modality: Tensor, idh: Tensor, drop: float, generator: Generator) -> Tensor:
        """One sentence per row, the canonical one half of the time; empty with probability `drop`. (B, L, D)."""
        chosen = []
        for pair in zip(modality.tolist(), idh.tolist(), strict=True):
            choices = self.rows[pair]
            canonical = torch.rand(1, generator=generator).item() < 0.5
            chosen.append(choices[0] if canonical else choices[pick(len(choices), 1, generator)[0]])
        index = torch.stack(chosen)
        index[torch.rand(len(index), generator=generator) < drop] = 0
        return self.embeddings[index]

    def canonical(self, modality: Tensor, idh: Tensor) -> Tensor:
        """Embeddings of the canonical sentences, (B, L, D)."""
        return self.embeddings[
            torch.stack([self.rows[p][0] for p in zip(modality.tolist(), idh.tolist(), strict=True)])
        ]


@dataclass
class LatentBatches:
    """Cached latents with sentence and structure.

    One structure serves a whole sequence, so the edges come from a *random* modality of the slice, whichever modality
    is to be drawn. A batch: latent (B, 4, h, w), text (B, L, D), structure (B, 1, H, W) in {0, 1}, modality, idh,
    emphasis (B, 1, h, w) in [0, 1]: where the loss counts more, see `emphasis_map`.
    """

    cohort: Cohort
    rows: np.ndarray
    latents: np.ndarray  # (N, 4, C, h, w) float16, memory-mapped
    prompts: PromptTable
    drop_prompt: float = 0.1
    with_structure: bool = True

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        rows = self.rows[pick(len(self.rows), count, generator).numpy()]
        modality = pick(len(Modality), count, generator)
        edges_of = pick(len(Modality), count, generator)
        return self.at(rows, modality, edges_of) | {
            "text": self.prompts.draw(modality, idh_index(self.cohort, rows), self.drop_prompt, generator)
        }

    def at(self, rows: np.ndarray, modality: Tensor, edges_of: Tensor) -> dict[str, Tensor]:
        """Chosen rows (B,), modalities (B,) and modalities of the edges (B,), with canonical sentences."""
        idh = idh_index(self.cohort, rows)
        latent = torch.from_numpy(np.asarray(self.latents[rows, modality.numpy()], dtype=np.float32))
        batch = {"latent": latent, "text": self.prompts.canonical(modality, idh), "modality": modality, "idh": idh}
        images, tumour = np.asarray(self.cohort.images[rows]), np.asarray(self.cohort.masks[rows]) > 0
        batch["emphasis"] = emphasis_map(images, tumour, modality, latent.shape[-1])
        if self.with_structure:
            edges = np.stack([canny(self.cohort.images[r, m]) for r, m in zip(rows, edges_of.tolist(), strict=True)])
            batch["structure"] = torch.from_numpy(edges > 0)[:, None].float()
        return batch


def emphasis_map(images: np.ndarray, tumour: np.ndarray, modality: Tensor, side: int) -> Tensor:
    """Where a slice says most about its prompt: in its tumour and, of T1 and T1Gd, where the contrast agent shows.

    Rims, veins and sinuses are all that tells the two apart, and so small that the mean over a slice passes them over.

    Args:
        images: (B, 4, H, W) uint8, the slices in all modalities.
        tumour: (B, H, W) bool.
        modality: (B,) index of the modality that is to be drawn.
        side: of the latents.

    Returns:
        (B, 1, side, side) in [0, 1]: the share of tumour in each latent pixel, 1 where the agent shows.
    """
    shares = F.adaptive_avg_pool2d(torch.from_numpy(tumour)[:, None].float(), side)
    order = list(Modality)
    t1, t1gd = order.index(Modality.T1), order.index(Modality.T1GD)
    bright = images[:, t1gd].astype(np.int16) - images[:, t1] > ENHANCEMENT * 255
    agent = F.adaptive_max_pool2d(torch.from_numpy(bright)[:, None].float(), side)
    concerned = ((modality == t1) | (modality == t1gd)).float().view(-1, 1, 1, 1)
    return torch.maximum(shares, agent * concerned)


@torch.inference_mode()
def cache_latents(
    cohort: Cohort, autoencoder: AutoencoderKL, weights: Path, folder: Path, precision: torch.dtype, batch: int = 4
) -> np.ndarray:
    """Normalised latents of every slice and modality, (N, 4, C, h, w) float16, computed once and memory-mapped.

    The file's name holds the autoencoder's and the cohort's SHA-256, so a changed one is never mistaken for another.
    """
    key = f"{sha256(weights)[:12]}-{cohort_key(cohort)}"
    path = folder / f"latents-{key}.npy"
    if not path.is_file():
        device = next(autoencoder.parameters()).device
        parts = []
        for start in tqdm(range(0, len(cohort), batch), desc="latents"):
            images = torch.from_numpy(np.array(cohort.images[start : start + batch])).to(device)
            images = images.flatten(0, 1)[:, None].float() / 127.5 - 1
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                latents = encode(autoencoder, images.contiguous(memory_format=torch.channels_last))
            parts.append(latents.unflatten(0, (-1, len(Modality))).half().cpu())
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, torch.cat(parts).numpy())
    return np.load(path, mmap_mode="r")
