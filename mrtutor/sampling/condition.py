"""What depends on the structure alone, computed once a picture and not once a step.

Axes: S structure maps · B batch · H, W image pixels (256) · h, w latent pixels (32).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from mrtutor.models.guidance import Variant, predict, stem_computed, structure_condition

# latents (B, 4, h, w), time step, text (B, L, D), factor on the structure (B, 1, 1, 1) -> (B, 4, h, w)
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class _SplitInput(nn.Module):
    """The first convolution of variant D, whose share of the structure channels is known beforehand.

    A convolution is linear: conv([latents, structure]) = conv(latents) + conv(structure).
    """

    def __init__(self, conv: nn.Conv2d, structure: Tensor):
        super().__init__()
        own = conv.in_channels - structure.shape[1]
        self.padding = conv.padding
        self.weight = nn.Parameter(conv.weight[:, :own].contiguous(memory_format=torch.channels_last))
        self.bias = conv.bias
        weight = conv.weight[:, own:]
        self.share = F.conv2d(structure.to(weight.dtype), weight, padding=conv.padding)  # (S, C, h, w)
        self.scale: Tensor | float = 1.0  # factor on the share, one for all or (B, 1, 1, 1)

    def forward(self, latents: Tensor) -> Tensor:
        features = F.conv2d(latents, self.weight, self.bias, padding=self.padding)
        return features + (self.scale * _repeated(self.share, len(latents))).to(features.dtype)


def _repeated(rows: Tensor, batch: int) -> Tensor:
    """(S, …) -> (B, …): one row serves all, several repeat in order, once for each half of guidance."""
    return rows.expand(batch, -1, -1, -1) if len(rows) == 1 else rows.repeat(batch // len(rows), 1, 1, 1)


@contextmanager
def structure_fixed(
    unet: UNet2DConditionModel,
    guidance: ControlNetModel | None,
    variant: Variant,
    structure: Tensor | None,
    autoencoder: AutoencoderKL,
) -> Iterator[Denoise]:
    """Within the block, a denoiser that has already seen the structure.

    Variants A-C: the stem of the guidance network has run. D: the structure's share of the first convolution is
    known. Both networks are put back as they were, also after an error.

    Args:
        structure: (S, 1, H, W) in {0, 1}, S = 1 or the number of prompts; None for variant NONE.

    Yields:
        ``denoise(latents, timestep, text, scale)``, for batches of S or of a multiple of S (rows in the same order);
        `scale` as in `predict`.
    """
    if variant is Variant.NONE:
        yield lambda latents, t, text, scale: predict(unet, None, variant, latents, t, text, None)
        return
    condition = structure_condition(structure.to(autoencoder.dtype), variant, autoencoder).to(unet.dtype)
    if variant is Variant.D:
        joint = unet.conv_in
        split = unet.conv_in = _SplitInput(joint, condition)

        def denoise(latents: Tensor, t: Tensor, text: Tensor, scale: Tensor) -> Tensor:
            split.scale = scale
            return predict(unet, None, Variant.NONE, latents, t, text, None)

        try:
            yield denoise
        finally:
            unet.conv_in = joint
        return
    features = guidance.controlnet_cond_embedding(condition)
    with stem_computed(guidance):
        yield lambda latents, t, text, scale: predict(
            unet, guidance, variant, latents, t, text, _repeated(features, len(latents)), scale
        )
