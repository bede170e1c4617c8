"""Structural guidance: an edge map steers the denoiser.

Four variants share one interface, `predict`:

A  *middle*: a cloned encoder whose residual enters the middle block only (the paper's §3.2, Eq. 2-3).
B  *all*: the same, into the middle block and every skip connection (ControlNet, Zhang et al., ICCV 2023).
C  *all, latent structure*: like B; the structure enters as a latent of the frozen autoencoder.
D  *concat*: no second network; the structure is concatenated to the denoiser's input.

Axes: B batch · H, W image pixels (256) · h, w latent pixels (32).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from mrtutor.models.autoencoder import encode

STRUCTURE_CHANNELS = 64  # 256 x 256 edges as 8 x 8 pixels per latent pixel: nothing is lost on the way in


class Variant(StrEnum):
    """How the structure reaches the denoiser; NONE is the plain latent diffusion model."""

    NONE = "none"
    A = "A"
    B = "B"
    C = "C"
    D = "D"

    @classmethod
    def _missing_(cls, value: object) -> "Variant":
        raise ValueError(f"Unknown guidance variant {value!r}: expected one of {', '.join(cls)}.")

    @property
    def has_network(self) -> bool:
        """Whether a second network (`diffusers.ControlNetModel`) carries the structure."""
        return self in (Variant.A, Variant.B, Variant.C)


def build_guidance(unet: UNet2DConditionModel, variant: Variant, stem_width: int = 96) -> ControlNetModel:
    """Clone the encoder and middle block of `unet` (Eq. 3) and close every exit with a zero convolution (Eq. 2).

    diffusers also starts the *stem* at zero. Two zero layers in a row have no gradient at first, which is the cause
    of ControlNet's "sudden convergence"; so the stem starts like any convolution and only the exits are zero.
    """
    channels = unet.config.out_channels if variant is Variant.C else STRUCTURE_CHANNELS
    guidance = ControlNetModel.from_unet(
        unet, conditioning_channels=channels, conditioning_embedding_out_channels=(stem_width,)
    )
    guidance.controlnet_cond_embedding.conv_out.reset_parameters()
    return guidance


def exit_parameters(guidance: ControlNetModel) -> list[nn.Parameter]:
    """Parameters of the zero convolutions; they train with a higher learning rate."""
    return [*guidance.controlnet_down_blocks.parameters(), *guidance.controlnet_mid_block.parameters()]


def structure_condition(structure: Tensor, variant: Variant, autoencoder: AutoencoderKL | None = None) -> Tensor:
    """Structure (B, 1, H, W) in {0, 1} -> what the variant takes at latent resolution.

    Returns:
        (B, 64, h, w) for A, B and D (pixel-unshuffle by 8), (B, 4, h, w) for C (latent of the edge image).
    """
    if variant is Variant.C:
        if autoencoder is None:
            raise ValueError("Variant C leads the structure through the autoencoder: pass `autoencoder`.")
        return encode(autoencoder, structure * 2 - 1)
    return F.pixel_unshuffle(structure, 8)


def predict(
    unet: UNet2DConditionModel,
    guidance: ControlNetModel | None,
    variant: Variant,
    latents: Tensor,
    timesteps: Tensor,
    text: Tensor,
    condition: Tensor | None,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """One call of the denoiser under any variant.

    Args:
        latents: noisy latents (B, 4, h, w).
        timesteps: (B,) or scalar, in [0, 999].
        text: hidden states (B, L, D).
        condition: from `structure_condition` (or the stem's features, inside `stem_computed`); None for NONE.
        scale: factor on the residuals (A-C) or on the structure channels (D); a tensor (B, 1, 1, 1) for each row its
            own.

    Returns:
        the prediction (B, 4, h, w), ε or v as the scheduler says.
    """
    if variant is Variant.NONE:
        return unet(latents, timesteps, text).sample
    if variant is Variant.D:
        return unet(torch.cat([latents, scale * condition.to(latents.dtype)], dim=1), timesteps, text).sample
    residuals = guidance(latents, timesteps, text, condition, conditioning_scale=scale)
    down = residuals.down_block_res_samples
    if variant is Variant.A:  # Eq. 3: the middle block is the only door
        down = [latents.new_zeros(()) for _ in down]
    return unet(
        latents,
        timesteps,
        text,
        down_block_additional_residuals=list(down),
        mid_block_additional_residual=residuals.mid_block_res_sample,
    ).sample


@contextmanager
def stem_computed(guidance: ControlNetModel) -> Iterator[None]:
    """Within the block `guidance` takes the stem's *output* as its condition, so that it is computed only once.

    The stem sees the structure alone, neither the time step nor the latents. It is always put back.
    """
    stem = guidance.controlnet_cond_embedding
    guidance.controlnet_cond_embedding = nn.Identity()
    try:
        yield
    finally:
        guidance.controlnet_cond_embedding = stem
