"""What is measured of a trained autoencoder on training slices, and stands beside its weights from then on.

Axes: N slices · M = 4 modalities · C latent channels · h, w latent pixels.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from mrtutor.data.cohort import Cohort
from mrtutor.models.autoencoder import encode, set_latent_statistics
from mrtutor.models.mirror import mirrored_modalities
from mrtutor.models.residual import Residual, measure_residual
from mrtutor.training.validation import reconstruct, spread
from mrtutor.vocabulary import Modality


def training_slices(cohort: Cohort, count: int = 64) -> Tensor:
    """(N, M, H, W) in [0, 1], spread over the training patients."""
    return torch.from_numpy(cohort.images[spread(cohort.rows("train"), count)]).float() / 255


@torch.inference_mode()
def store_latent_statistics(autoencoder: AutoencoderKL, slices: Tensor) -> list[Modality]:
    """Store mean and spread of each raw latent channel in the config.

    Args:
        slices: (N, M, H, W) in [0, 1].

    Returns:
        The modalities whose latents go against those of T1 (`mrtutor.models.mirror`).
    """
    channels, device = autoencoder.config.latent_channels, next(autoencoder.parameters()).device
    autoencoder.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    flat = slices.flatten(0, 1)[:, None] * 2 - 1
    latents = torch.cat([encode(autoencoder, part.to(device)).cpu() for part in flat.split(8)])
    set_latent_statistics(autoencoder, latents)
    brain = -F.adaptive_max_pool2d(-(slices > 0).all(dim=1)[:, None].float(), latents.shape[-1])[:, 0] > 0
    return mirrored_modalities(latents.unflatten(0, slices.shape[:2]).numpy(), brain.numpy())


@torch.inference_mode()
def lacking_grain(autoencoder: AutoencoderKL, slices: Tensor) -> Residual:
    """The noise that the autoencoder's pictures of `slices` (N, M, H, W) lack (`mrtutor.models.residual`)."""
    flat = slices.flatten(0, 1)
    return measure_residual(flat.numpy(), reconstruct(autoencoder, flat[:, None], torch.float32)[:, 0].numpy())
