"""Sizes and training recipes, from seconds on a laptop to the paper's.

`smoke` seconds, random-looking pictures, for tests · `laptop` two CPU cores, the shipped weights ·
`colab` one T4, about an hour · `paper` Stable Diffusion 1.5 sizes with the
settings of Kim et al., WACV 2024, §4.2. The sizes and the text encoder are our reading: the paper does not name them.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class AutoencoderPreset:
    """KL autoencoder. `unshuffle` × 2^(levels − 1) is the down-sampling factor f (8 everywhere)."""

    unshuffle: int = 4  # pixels per side folded into channels before the first convolution
    widths: tuple[int, ...] = (96, 128)  # channels per level
    layers: int = 1  # residual blocks per level
    norm_groups: int = 16
    latent_channels: int = 4
    middle_attention: bool = False
    image_channels: int = 1  # 3 for hub weights; used where unshuffle is 1
    image_size: int = 256


@dataclass(frozen=True)
class TextPreset:
    """MR-CLIP: a small CLIP with its own vocabulary, trained on paraphrases, then frozen."""

    hidden: int = 192  # D, width of the text encoder and of the cross-attention keys
    layers: int = 4
    heads: int = 6
    max_length: int = 64  # L, tokens; the longest sentences have about 50
    causal: bool = False  # each token reads the whole sentence; a CLIP from the hub reads from left to right
    projection: int = 128
    vision_hidden: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    patch: int = 32
    image_size: int = 256


@dataclass(frozen=True)
class DenoiserPreset:
    """Cross-attention U-Net."""

    widths: tuple[int, ...] = (96, 160, 224)
    attention: tuple[bool, ...] = (False, True, True)  # cross-attention per level; at 32 x 32 it is what costs
    layers: int = 1
    heads: int = 4
    norm_groups: int = 32
    latent_channels: int = 4
    latent_size: int = 32


@dataclass(frozen=True)
class StagePreset:
    """One training stage."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    final_rate: float = 0.01  # fraction of the learning rate left at the end
    schedule: str = "cosine"  # or "constant"
    weight_decay: float = 0.0
    beta2: float = 0.99
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    accumulation: int = 1
    validate_every: int = 250
    checkpoint_every: int = 250
    crop: int | None = None  # side of training crops in pixels; None for whole slices


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: the one place for it, stored in a pipeline's ``model_index.json``.

    Attributes:
        steps: calls of the denoiser, at least 1. The paper takes 100 (§4.2).
        guidance_scale: w of classifier-free guidance (Ho & Salimans, 2022), v = v₀ + w·(v₁ - v₀) with v₀ for the
            empty prompt and v₁ for the sentence; 1 is the sentence alone.
        guidance_interval: guidance acts while low ≤ t/T ≤ high (Kynkäänniemi et al., NeurIPS 2024).
        guide_structure: v₀ knows the edge map no more than the sentence, so that guidance sharpens both; without it
            v₀ is of the empty prompt *with* the edge map, and guidance sharpens the sentence alone.
        structure_scale: factor on what the edge map adds; 0 switches it off.
        eta: DDIM's η (Song et al., ICLR 2021): 0 deterministic, 1 as random as DDPM; other schedulers ignore it.
    """

    steps: int = 25
    guidance_scale: float = 1.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guide_structure: bool = False
    structure_scale: float = 1.0
    eta: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "SamplerConfig":
        """From a plain dict, as JSON gives it back (ValueError: a name that is no setting)."""
        known = {field.name for field in fields(cls)}
        if strange := sorted(set(values) - known):
            raise ValueError(f"Unknown sampler setting {', '.join(strange)}: expected {', '.join(sorted(known))}.")
        interval = tuple(values.get("guidance_interval", cls.guidance_interval))
        return cls(**{**values, "guidance_interval": interval})

    def replace(self, **changes: Any) -> "SamplerConfig":
        """A copy with changes; those that are None are left as they are."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def as_dict(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return asdict(self) | {"guidance_interval": list(self.guidance_interval)}

    def check(self, train_steps: int) -> None:
        """Refuse, with a ValueError, what a schedule of `train_steps` noise levels cannot sample."""
        if isinstance(self.steps, bool) or not isinstance(self.steps, Integral) or not 1 <= self.steps <= train_steps:
            raise ValueError(f"Expected num_inference_steps from 1 to {train_steps}, got {self.steps!r}: try 25.")
        for name in ("guidance_scale", "structure_scale", "eta"):
            if not _is_finite(getattr(self, name)):
                raise ValueError(f"Expected a finite number as {name}, got {getattr(self, name)!r}: try 1.0.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Expected eta from 0 (deterministic) to 1 (as random as DDPM), got {self.eta!r}: try 0.")
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


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True)
class Preset:
    """Everything that differs between a test on two cores and the paper's run."""

    name: str
    autoencoder: AutoencoderPreset
    text: TextPreset
    denoiser: DenoiserPreset
    stages: dict[str, StagePreset]  # autoencoder, decoder, text, denoiser, guidance
    sampler: SamplerConfig = SamplerConfig()
    variant: str = "paper"  # guidance variant, see `mrtutor.models.guidance`
    mask_padding: bool = True  # hide the padding from every cross-attention; Stable Diffusion does not
    drop_prompt: float = 0.1  # share of training rows with the empty prompt
    drop_structure: float = 0.1  # variant D: share of rows without structure, so that it is a plain LDM as well
    tumour_weight: float = 4.0  # how much more the diffusion loss counts inside a tumour (about 5 % of a slice)
    hub_text: str | None = None  # CLIP by hub id instead of MR-CLIP


_SMOKE = Preset(
    name="smoke",
    autoencoder=AutoencoderPreset(widths=(16, 32), norm_groups=8),
    text=TextPreset(hidden=32, layers=1, heads=2, projection=16, vision_hidden=32, vision_layers=1, vision_heads=2),
    denoiser=DenoiserPreset(widths=(32, 32, 64), norm_groups=8, heads=2),
    stages={
        "autoencoder": StagePreset(6, 4, 2e-3, warmup=2, validate_every=3, checkpoint_every=3, crop=64),
        "decoder": StagePreset(6, 2, 6e-4, warmup=2, validate_every=3, checkpoint_every=3),
        "text": StagePreset(6, 8, 1e-3, warmup=2, validate_every=3, checkpoint_every=3),
        "denoiser": StagePreset(6, 4, 6e-4, warmup=2, validate_every=3, checkpoint_every=3),
        "guidance": StagePreset(6, 4, 6e-4, warmup=2, validate_every=3, checkpoint_every=3),
    },
    sampler=SamplerConfig(steps=4),
)

_LAPTOP = Preset(
    name="laptop",
    autoencoder=AutoencoderPreset(),
    text=TextPreset(),
    denoiser=DenoiserPreset(),
    stages={
        "autoencoder": StagePreset(9000, 8, 2e-3, crop=128, validate_every=500),
        "decoder": StagePreset(4500, 4, 6e-4, ema_decay=0.995),
        "text": StagePreset(300, 32, 1e-3, weight_decay=0.01),
        "denoiser": StagePreset(300, 16, 8e-4, weight_decay=0.01, ema_decay=0.995),
        "guidance": StagePreset(4000, 16, 8e-4, weight_decay=0.01, ema_decay=0.998),
    },
    # Guidance in the middle of the noise levels alone: 1.4 x faster, figures alike (Kynkäänniemi et al., NeurIPS 2024).
    # Little of it: it draws away from the mean of all modalities, which is bright in a tumour, and so takes contrast
    # agent out of T1Gd. Away from a picture without structure, too: folds and outlines come out crisper, at no cost.
    # Fresh noise in each step mends what an early step got wrong (Karras et al., NeurIPS 2022).
    sampler=SamplerConfig(guidance_scale=1.5, guidance_interval=(0.2, 0.8), guide_structure=True, eta=1.0),
)

_COLAB = replace(
    _LAPTOP,
    name="colab",
    denoiser=DenoiserPreset(widths=(128, 256, 384), layers=2, heads=8),
    stages={
        "autoencoder": StagePreset(20_000, 16, 2e-3, crop=128, validate_every=1000),
        "decoder": StagePreset(5_000, 8, 6e-4, validate_every=1000),
        "text": StagePreset(2_000, 128, 1e-3, weight_decay=0.01),
        "denoiser": StagePreset(12_000, 64, 4e-4, weight_decay=0.01, validate_every=1000),
        "guidance": StagePreset(12_000, 64, 4e-4, weight_decay=0.01, validate_every=1000),
    },
)

_PAPER = Preset(
    name="paper",
    autoencoder=AutoencoderPreset(
        unshuffle=1,
        widths=(128, 256, 512, 512),
        layers=2,
        norm_groups=32,
        middle_attention=True,
        image_channels=3,
    ),
    text=TextPreset(
        hidden=768,
        layers=12,
        heads=12,
        max_length=77,
        causal=True,
        projection=768,
        vision_hidden=1024,
        vision_layers=24,
        vision_heads=16,
        patch=14,
        image_size=224,
    ),
    denoiser=DenoiserPreset(widths=(320, 640, 1280, 1280), attention=(True, True, True, False), layers=2, heads=8),
    stages={
        stage: StagePreset(100_000, 8, 1e-6, schedule="constant", validate_every=1000, checkpoint_every=1000)
        for stage in ("autoencoder", "decoder", "text", "denoiser", "guidance")
    },
    sampler=SamplerConfig(steps=100, guidance_scale=7.5),
    mask_padding=False,
    hub_text="openai/clip-vit-large-patch14",
)

PRESETS = {preset.name: preset for preset in (_SMOKE, _LAPTOP, _COLAB, _PAPER)}


def load_preset(name: str) -> Preset:
    """Preset by name; a ValueError lists the choices."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
    return PRESETS[name]
