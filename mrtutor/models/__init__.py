"""The networks: builders for standard classes of diffusers and transformers, and the little that those lack."""

from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.denoiser import build_denoiser, build_scheduler, widen_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, build_guidance
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.presets import Preset


def build_components(preset: Preset, variant: Variant) -> dict[str, object]:
    """Untrained parts of an `MRPipeline`, by the names of its arguments.

    Weights are drawn from torch's global generator. The autoencoder's latent statistics are the identity.

    Args:
        preset: sizes of every network.
        variant: how the structure enters; only A, B and C have a guidance network, else it is None.
    """
    tokenizer = build_tokenizer(preset.text.max_length)
    autoencoder = build_autoencoder(preset.autoencoder)
    channels = preset.autoencoder.latent_channels
    autoencoder.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    unet = build_denoiser(preset.denoiser, preset.text.hidden)
    guidance = build_guidance(unet, variant) if variant.has_network else None
    parts: dict[str, nn.Module | CLIPTokenizer | object] = {
        "autoencoder": autoencoder,
        "text_encoder": _text_half(preset, tokenizer),
        "tokenizer": tokenizer,
        "unet": widen_input(unet, STRUCTURE_CHANNELS) if variant is Variant.D else unet,
        "guidance": guidance,
        "scheduler": build_scheduler(),
    }
    return {name: part.eval() if isinstance(part, nn.Module) else part for name, part in parts.items()}


def _text_half(preset: Preset, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    clip = build_clip(preset.text, tokenizer)
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder
