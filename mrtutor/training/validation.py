"""What a stage shows while it trains: a few figures on fixed unseen slices, and a sheet of pictures."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor, nn

from mrtutor.files import atomic_path
from mrtutor.models.autoencoder import decode, encode
from mrtutor.training.batches import LatentBatches, pick
from mrtutor.training.objectives import DiffusionObjective
from mrtutor.vocabulary import Modality


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows spread evenly over `rows`, so that a fixed choice covers many patients."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: Tensor, precision: torch.dtype, batch: int = 8) -> Tensor:
    """Images (B, 1, H, W) in [0, 1] through encoder and decoder, (B, 1, H, W) float32 in [0, 1]."""
    device = next(autoencoder.parameters()).device
    decoded = []
    for part in images.split(batch):
        part = (part.to(device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        # autocast off during a stage's own autocast would nest; being explicit keeps both uses alike
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            decoded.append(decode(autoencoder, encode(autoencoder, part)).cpu())
    return ((torch.cat(decoded).float() + 1) / 2).clamp(0, 1)


@dataclass(frozen=True)
class AutoencoderValidation:
    """PSNR (dB) and SSIM of whole unseen slices, and a sheet: original above reconstruction."""

    images: Tensor  # (B, 1, H, W) in [0, 1]
    precision: torch.dtype

    def __call__(self, model: AutoencoderKL) -> dict[str, float]:
        pairs = list(zip(self.images[:, 0].numpy(), self._decoded(model)[:, 0].numpy(), strict=True))
        return {
            "psnr_db": float(np.mean([peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs])),
            "ssim": float(np.mean([structural_similarity(a, b, data_range=1) for a, b in pairs])),
        }

    def sheet(self, model: AutoencoderKL, path: Path) -> None:
        """Save four slices and their reconstructions as PNG."""
        write_sheet(path, [list(self.images[:4, 0].numpy()), list(self._decoded(model)[:4, 0].numpy())])

    def _decoded(self, model: AutoencoderKL) -> Tensor:
        raw = model.config.latents_mean
        if raw is None:  # statistics are set after training; the identity serves meanwhile
            channels = model.config.latent_channels
            model.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
        return reconstruct(model, self.images, self.precision)


@dataclass(frozen=True)
class DiffusionValidation:
    """Unweighted error of Eq. 4 on fixed unseen slices, time steps and noise: comparable between runs."""

    objective: DiffusionObjective
    batches: LatentBatches
    rows: np.ndarray
    precision: torch.dtype
    seed: int = 0

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        generator = Generator().manual_seed(self.seed)
        device = next(model.parameters()).device
        modality = torch.arange(len(self.rows)) % len(Modality)
        batch = self.batches.at(self.rows, modality, pick(len(Modality), len(self.rows), generator))
        steps = self.objective.scheduler.config.num_train_timesteps
        t = ((torch.arange(len(self.rows)) + 0.5) * steps / len(self.rows)).long()  # every noise level alike
        t = t[torch.randperm(len(t), generator=generator)]
        noise = torch.randn(batch["latent"].shape, generator=generator)
        errors = []
        for part in torch.arange(len(self.rows)).split(16):
            small = {k: v[part].to(device) for k, v in batch.items()}
            with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
                _, logs = self.objective.at(model, small, t[part].to(device), noise[part].to(device))
            errors.append(logs["error"].item() * len(part))
        return {"error": sum(errors) / len(self.rows)}


def write_sheet(path: Path, rows: list[list[np.ndarray]]) -> None:
    """Rows of equal grey images (H, W) in [0, 1] as one PNG, written atomically."""
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), (sheet * 255).round().astype(np.uint8)):
            raise OSError(f"Could not write {path}: is the disk full?")
