"""In which form the pipeline hands its pictures over.

Axes: B batch · h, w latent pixels.
"""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKL
from diffusers.utils import BaseOutput
from torch import Tensor

from mrtutor.models.autoencoder import decode

OUTPUT_TYPES = ("pt", "np", "pil", "latent")


@dataclass
class MRPipelineOutput(BaseOutput):
    """Synthetic slices: (B, 256, 256) float32 in [0, 1], as a tensor, an array or a list of grey PIL pictures.

    With `output_type="latent"` the normalised latents (B, 4, h, w) instead.
    """

    images: Tensor | np.ndarray | list[PIL.Image.Image]


def check_output_type(output_type: str) -> None:
    """Refuse an unknown output type (ValueError)."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"Unknown output_type {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}.")


def to_images(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, 4, h, w) -> (B, 256, 256) float32 in [0, 1]; in float32, as bfloat16 has 8 bits of precision."""
    return (decode(autoencoder, latents)[:, 0] / 2 + 0.5).clamp(0, 1)


def as_type(images: Tensor, output_type: str) -> Tensor | np.ndarray | list[PIL.Image.Image]:
    """Pictures (B, 256, 256) in [0, 1] on the CPU -> the form asked for; latents stay as they are."""
    if output_type == "np":
        return images.numpy()
    if output_type == "pil":
        return [PIL.Image.fromarray(picture) for picture in (images * 255).round().to(torch.uint8).numpy()]
    return images
