"""Sizes and training recipes, from seconds on a laptop to the paper's.

`smoke` seconds, random-looking pictures, for tests · `laptop` two CPU cores, the shipped weights ·
`colab` one T4, about an hour · `paper` Stable Diffusion 1.5 sizes (Kim et al., WACV 2024, §4.1).
"""

from dataclasses import dataclass, replace


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

    @property
    def factor(self) -> int:
        """Down-sampling factor f from image to latent."""
        return self.unshuffle * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class TextPreset:
    """MR-CLIP: a small CLIP with its own vocabulary, trained on paraphrases, then frozen."""

    hidden: int = 192  # D, width of the text encoder and of the cross-attention keys
    layers: int = 4
    heads: int = 6
    max_length: int = 32  # L, tokens
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
    structure_channels: int = 0  # 0 until widened for variant D


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
class StyleGAN2Preset:
    """The baseline: generator and discriminator of equal widths (Karras et al., CVPR 2020 and NeurIPS 2020)."""

    channels: tuple[int, ...] = (128, 128, 128, 128, 64, 32, 16)  # at 4, 8, 16, 32, 64, 128 and 256 pixels
    latent: int = 128  # width of z and of the style w
    mapping_layers: int = 4
    r1_weight: float = 1.6  # γ of the gradient penalty: 0.0002 · 256² / batch size (ADA's rule)
    r1_every: int = 16  # steps between two gradient penalties (lazy regularisation)
    path_weight: float = 2.0
    path_every: int = 8  # steps between two path-length penalties
    ada_target: float = 0.6  # E[sign D(x)] that the augmentation aims at
    ada_images: int = 50_000  # images in which the augmentation's p may go from 0 to 1
    ema_images: int = 10_000  # half-life of the averaged generator
    ema_rampup: float = 0.05  # and at most this share of what it has seen


@dataclass(frozen=True)
class SamplerPreset:
    """Defaults of the pipeline."""

    steps: int = 25
    guidance_scale: float = 2.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # share of the noise levels where guidance acts
    guide_structure: bool = False  # whether it sharpens the structure as well as the sentence
    eta: float = 0.0  # randomness of DDIM


@dataclass(frozen=True)
class Preset:
    """Everything that differs between a test on two cores and the paper's run."""

    name: str
    autoencoder: AutoencoderPreset
    text: TextPreset
    denoiser: DenoiserPreset
    stages: dict[str, StagePreset]  # autoencoder, decoder, text, denoiser, guidance, stylegan2
    stylegan2: StyleGAN2Preset = StyleGAN2Preset()
    sampler: SamplerPreset = SamplerPreset()
    variant: str = "D"  # the guidance variant that ships
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
        "stylegan2": StagePreset(6, 4, 2e-3, warmup=2, schedule="constant", validate_every=3, checkpoint_every=3),
    },
    stylegan2=StyleGAN2Preset(channels=(16, 16, 16, 8, 8, 4, 4), latent=16, mapping_layers=2, r1_every=3, path_every=2),
    sampler=SamplerPreset(steps=4),
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
        "stylegan2": StagePreset(10_000, 8, 2e-3, schedule="constant"),
    },
    # Guidance in the middle of the noise levels alone: 1.4 x faster, figures alike (Kynkäänniemi et al., NeurIPS 2024).
    # Little of it: it draws away from the mean of all modalities, which is bright in a tumour, and so takes contrast
    # agent out of T1Gd. Away from a picture without structure, too: folds and outlines come out crisper, at no cost.
    # Fresh noise in each step mends what an early step got wrong (Karras et al., NeurIPS 2022).
    sampler=SamplerPreset(guidance_scale=1.5, guidance_interval=(0.2, 0.8), guide_structure=True, eta=1.0),
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
        "stylegan2": StagePreset(12_000, 32, 2e-3, schedule="constant", validate_every=1000),
    },
    stylegan2=StyleGAN2Preset(channels=(256, 256, 256, 256, 128, 64, 32), latent=256, r1_weight=0.4),
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
    }
    | {"stylegan2": StagePreset(100_000, 64, 2.5e-3, schedule="constant", validate_every=1000, checkpoint_every=1000)},
    stylegan2=StyleGAN2Preset(  # the size and settings of ADA's configuration for 256 pixels
        channels=(512, 512, 512, 512, 256, 128, 64),
        latent=512,
        mapping_layers=8,
        r1_weight=1.0,
        ada_images=500_000,
        ema_images=20_000,
    ),
    sampler=SamplerPreset(steps=100, guidance_scale=7.5),
    variant="A",
    hub_text="openai/clip-vit-large-patch14",
)

PRESETS = {preset.name: preset for preset in (_SMOKE, _LAPTOP, _COLAB, _PAPER)}


def load_preset(name: str) -> Preset:
    """Preset by name.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
    return PRESETS[name]
