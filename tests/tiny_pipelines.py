"""Tiny pipelines with random weights in which, unlike at the start of a training, every door is open."""

import torch
from transformers import CLIPTextModel

from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.denoiser import build_denoiser, build_scheduler, widen_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, build_guidance
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.presets import load_preset
from mrtutor.sampling.pipeline import MRPipeline

SMOKE = load_preset("smoke")


def build(variant: str, steps: int = 3) -> MRPipeline:
    """Pipeline of smoke sizes; all variants share autoencoder, text encoder and plain U-Net."""
    variant = Variant(variant)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(SMOKE.text.max_length)
    clip = build_clip(SMOKE.text, tokenizer)
    text_encoder = CLIPTextModel(clip.config.text_config).eval()
    text_encoder.load_state_dict(clip.text_model.state_dict())
    autoencoder = build_autoencoder(SMOKE.autoencoder).eval()
    autoencoder.register_to_config(latents_mean=[0.1, -0.1, 0.0, 0.2], latents_std=[1.0, 2.0, 0.5, 1.5])
    unet = build_denoiser(SMOKE.denoiser, SMOKE.text.hidden).eval()
    guidance = build_guidance(unet, variant).eval() if variant.has_network else None
    if variant is Variant.D:
        unet = widen_input(unet, STRUCTURE_CHANNELS).eval()
    _open_doors(unet, guidance)
    return MRPipeline(
        autoencoder, text_encoder, tokenizer, unet, guidance, build_scheduler(), str(variant), steps, 2.0, (0.0, 1.0)
    )


@torch.no_grad()
def _open_doors(unet, guidance):
    draw = torch.Generator().manual_seed(1)
    unet.conv_in.weight[:, 4:].normal_(std=0.3, generator=draw)
    for block in [] if guidance is None else [*guidance.controlnet_down_blocks, guidance.controlnet_mid_block]:
        block.weight.normal_(std=0.2, generator=draw)
    for module in unet.modules():  # a fresh text-to-image path hardly hears the text: louder, so that words matter
        if type(module).__name__ == "Attention":
            module.to_v.weight.mul_(8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
