"""What the pipeline is asked for, checked before any computing.

Axes: B batch · h, w latent pixels.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Generator, Tensor

from mrtutor.data.structure import validate_structure
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant

ETA_MAX = 0.9999  # at η = 1 DDIM's direction is √0 at zero terminal SNR, and rounding makes that √(−10⁻⁸): NaN


@dataclass(frozen=True)
class Settings:
    """How to sample.

    Attributes:
        steps: calls of the denoiser, at least 1.
        guidance_scale: w of classifier-free guidance (Ho & Salimans, 2022), v = v₀ + w·(v₁ - v₀) with v₀ for the
            empty prompt and v₁ for the sentence; 1 is the sentence alone.
        guidance_interval: guidance acts while low ≤ t/T ≤ high (Kynkäänniemi et al., NeurIPS 2024).
        guide_structure: v₀ knows the structure no more than the sentence, so that guidance sharpens both; without it v₀
            is of the empty prompt *with* the structure, and guidance sharpens the sentence alone.
        structure_scale: factor on what the structure adds; 0 switches it off.
        eta: DDIM's η (Song et al., ICLR 2021): 0 deterministic, 1 as random as DDPM; other schedulers ignore it.
    """

    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guide_structure: bool = False
    structure_scale: float = 1.0
    eta: float = 0.0

    def check(self, train_steps: int) -> None:
        """Refuse what cannot be sampled.

        Raises:
            ValueError: steps out of 1…`train_steps`, a number that is not finite, or no interval.
        """
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= train_steps:
            raise ValueError(f"Expected num_inference_steps from 1 to {train_steps}, got {self.steps!r}: try 25.")
        for name in ("guidance_scale", "structure_scale", "eta"):
            if not _is_finite(getattr(self, name)):
                raise ValueError(f"Expected a finite number as {name}, got {getattr(self, name)!r}: try 1.0.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Expected eta from 0 (deterministic) to 1 (as random as DDPM), got {self.eta!r}: try 0.")
        if not isinstance(self.guide_structure, bool):
            raise ValueError(f"Expected guide_structure True or False, got {self.guide_structure!r}.")
        interval = self.guidance_interval
        if len(interval) != 2 or not all(map(_is_finite, interval)) or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(
                f"Expected guidance_interval (low, high) with 0 <= low <= high <= 1, got {interval!r}: "
                "(0, 1) means at every step."
            )

    def guides(self, share: float) -> bool:
        """Whether classifier-free guidance acts at noise level `share` = t/T."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= share <= high

    def structure_scales(self, batch: int) -> Tensor:
        """(2B, 1, 1, 1): factor on the structure in the empty prompt's half, then in the sentences'."""
        scales = torch.full((2, batch, 1, 1, 1), float(self.structure_scale))
        if self.guide_structure:
            scales[0] = 0.0
        return scales.flatten(0, 1)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_components(unet: UNet2DConditionModel, guidance: ControlNetModel | None, variant: Variant) -> None:
    """Refuse networks that do not make up the variant.

    Raises:
        ValueError: a guidance network too many or missing, or one (or a U-Net) of another variant's channels.
    """
    if (guidance is not None) != variant.has_network:
        need = "needs a guidance network" if variant.has_network else "takes no guidance network"
        raise ValueError(f"Variant {variant} {need}, got {type(guidance).__name__}: check `variant` and `guidance`.")
    extra = unet.config.in_channels - unet.config.out_channels
    wanted = STRUCTURE_CHANNELS if variant is Variant.D else 0
    if extra != wanted:
        raise ValueError(
            f"Variant {variant} needs a U-Net with {wanted} structure channels, got {extra}: it is another variant's."
        )
    if guidance is not None:
        wanted = unet.config.out_channels if variant is Variant.C else STRUCTURE_CHANNELS
        got = guidance.config.conditioning_channels
        if got != wanted:
            raise ValueError(
                f"Variant {variant} needs a guidance network of {wanted} channels, got {got}: it is another variant's."
            )


def match(prompt: str | Sequence[str], structure: object, variant: Variant) -> tuple[list[str], Tensor | None]:
    """Prompts and structure maps, one of them repeated if only one was given.

    Returns:
        B sentences; structure (1, 1, 256, 256) or (B, 1, 256, 256) in {0, 1}, None for variant NONE.

    Raises:
        ValueError: no prompt; a structure where none is taken, or none where one is needed; what
            `validate_structure` refuses; counts that do not match.
    """
    if not isinstance(prompt, str | Sequence) or not len(prompt):
        raise ValueError(f"Expected a sentence or a list of sentences, got {prompt!r}: see mrtutor.prompt.")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if variant is Variant.NONE:
        if structure is not None:
            raise ValueError("This pipeline has no structural guidance (variant none): pass structure=None.")
        return prompts, None
    if structure is None:
        raise ValueError(f"Variant {variant} needs a structure map (256, 256): pass one, see mrtutor.data.structure.")
    maps = validate_structure(structure)
    if len(prompts) == 1:
        prompts = prompts * len(maps)
    if len(maps) not in (1, len(prompts)):
        raise ValueError(f"Got {len(prompts)} prompts, {len(maps)} structure maps: expected as many, or one of either.")
    return prompts, maps


def initial_noise(latents: Tensor | None, generator: Generator | list[Generator] | None, shape: tuple) -> Tensor:
    """Unit noise (B, 4, h, w), drawn on the generator's device: by default the CPU, so that seeds mean the same
    everywhere.

    Args:
        latents: the noise itself, (B, 4, h, w) or (1, 4, h, w) for all.
        generator: one for the batch, or a list of B.

    Raises:
        ValueError: wrong shape, values that are not finite, something that is no generator, or too few of them.
    """
    many = generator if isinstance(generator, list | tuple) else [generator]
    if any(g is not None and not isinstance(g, Generator) for g in many):
        raise ValueError(f"Expected a torch.Generator, got {generator!r}: pass torch.Generator().manual_seed(seed).")
    if len(many) not in (1, shape[0]):
        raise ValueError(f"Got {len(many)} generators for {shape[0]} pictures: expected one, or one for each.")
    if latents is None:
        part = (shape[0] // len(many), *shape[1:])
        return torch.cat([torch.randn(part, generator=g, device=g.device if g else None) for g in many])
    if not isinstance(latents, Tensor) or latents.shape[1:] != shape[1:] or len(latents) not in (1, shape[0]):
        got = tuple(getattr(latents, "shape", ())) or type(latents).__name__
        raise ValueError(f"Expected latents of shape {shape} or (1, …), got {got}: draw them with torch.randn.")
    if not torch.isfinite(latents).all():
        raise ValueError("Expected finite latents, got NaN or infinity: draw them with torch.randn.")
    return latents.float().expand(shape)


def own_streams(generator: Generator | list[Generator] | None, prompts: list[str]) -> list[Generator]:
    """A generator for each picture, of the state of its `generator` and of its sentence.

    The modalities of a sequence share a seed, and so all the noise that decides the anatomy; the noise of the scanner
    is each one's own, yet the same again for the same seed and sentence.
    """
    many = generator if isinstance(generator, list | tuple) else [generator]
    many = many if len(many) == len(prompts) else list(many) * len(prompts)
    seeds = [int(torch.randint(2**62, (1,), generator=g, device=g.device if g else None)) for g in many]
    return [Generator().manual_seed(seed ^ zlib.crc32(p.encode())) for seed, p in zip(seeds, prompts, strict=True)]
