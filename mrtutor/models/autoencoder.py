"""The KL autoencoder between images and latents, and the pixel (un)shuffle around it.

Axes: B batch · C latent channels · H, W image pixels (256) · h, w latent pixels (32).
Source: Rombach et al., CVPR 2022 (KL autoencoder); Kim et al., WACV 2024, §3.3.
"""

import math

import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from mrtutor.presets import AutoencoderPreset


def build_autoencoder(preset: AutoencoderPreset) -> AutoencoderKL:
    """A standard `AutoencoderKL` on images unshuffled to (B, u², H/u, W/u): lossless, and cheap at full resolution."""
    levels = len(preset.widths)
    channels = preset.unshuffle**2 if preset.unshuffle > 1 else preset.image_channels
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=preset.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=preset.layers,
        latent_channels=preset.latent_channels,
        norm_num_groups=preset.norm_groups,
        mid_block_add_attention=preset.middle_attention,
        sample_size=preset.image_size,
    )


def unshuffle_factor(autoencoder: AutoencoderKL) -> int:
    """Pixel-unshuffle factor u that the channel count of `autoencoder` implies: 1, 2, 4, …"""
    channels = autoencoder.config.in_channels
    return 1 if channels == 3 else math.isqrt(channels)


def factor_of(autoencoder: AutoencoderKL) -> int:
    """Down-sampling factor f from image to latent."""
    return unshuffle_factor(autoencoder) * 2 ** (len(autoencoder.config.block_out_channels) - 1)


def to_channels(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) -> what the first convolution takes: (B, u², H/u, W/u), or (B, 3, H, W) repeated."""
    if autoencoder.config.in_channels == 3:
        return images.expand(-1, 3, -1, -1)
    return F.pixel_unshuffle(images, unshuffle_factor(autoencoder))


def from_channels(autoencoder: AutoencoderKL, channels: Tensor) -> Tensor:
    """Inverse of `to_channels`; three colour channels are averaged to grey."""
    if autoencoder.config.in_channels == 3:
        return channels.mean(dim=1, keepdim=True)
    return F.pixel_shuffle(channels, unshuffle_factor(autoencoder))


def encode(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (B, 1, H, W) in [-1, 1] -> mode of the posterior, normalised to about zero mean and unit variance."""
    raw = autoencoder.encode(to_channels(autoencoder, images)).latent_dist.mode().float()
    mean, std = _statistics(autoencoder, raw)
    return (raw - mean) / std


def decode(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Normalised latents (B, C, h, w) -> images (B, 1, H, W), nominally in [-1, 1] (not clipped)."""
    mean, std = _statistics(autoencoder, latents)
    decoded = autoencoder.decode((latents * std + mean).to(autoencoder.dtype)).sample
    return from_channels(autoencoder, decoded).float()


def set_latent_statistics(autoencoder: AutoencoderKL, latents: Tensor) -> None:
    """Store mean and standard deviation *per channel* of raw latents (N, C, h, w): they spread from 0.5 to 2."""
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    autoencoder.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def _statistics(autoencoder: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    config = autoencoder.config
    if config.latents_mean is None:  # autoencoders from the hub carry one factor for all channels instead
        return like.new_zeros(1), like.new_full((1,), 1 / config.scaling_factor)
    mean, std = like.new_tensor(config.latents_mean), like.new_tensor(config.latents_std)
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
