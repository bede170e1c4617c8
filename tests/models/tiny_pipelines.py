"""Tiny pipelines with random weights in which, unlike at the start of a training, every zero convolution is open."""

import torch
from diffusers.models.attention_processor import Attention

from mrtutor.models import build_components
from mrtutor.models.guidance import exit_parameters
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.presets import SamplerConfig, load_preset

SMOKE = load_preset("smoke")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(variant: str, steps: int = 3, mask_padding: bool = True) -> MRPipeline:
    """Pipeline of smoke sizes, float32 and silent; all variants share autoencoder, text encoder and plain U-Net."""
    torch.manual_seed(0)
    parts = build_components(SMOKE, variant)
    channels = SMOKE.autoencoder.latent_channels
    mean, std = ([values[i % 4] for i in range(channels)] for values in ([0.1, -0.1, 0.0, 0.2], [1.0, 2.0, 0.5, 1.5]))
    parts["autoencoder"].register_to_config(latents_mean=mean, latents_std=std)
    open_exits(parts["unet"], parts["guidance"])
    with torch.no_grad():
        for module in parts["unet"].modules():  # a fresh path from the text is hardly heard: louder, so words matter
            if isinstance(module, Attention):
                module.to_v.weight.mul_(8)
    sampler = SamplerConfig(steps=steps, guidance_scale=2.0)
    pipe = MRPipeline(**parts, variant=variant, sampler=sampler, mask_padding=mask_padding, findings=True)
    pipe.precision = torch.float32
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def open_exits(unet, network):
    """Random weights where a variant starts with zeros."""
    draw = seeded(1)
    extra = unet.conv_in.weight[:, unet.config.out_channels :]
    extra.normal_(std=0.3, generator=draw)
    if network is not None:
        for parameter in exit_parameters(network):
            parameter.normal_(std=0.2, generator=draw)
        network.controlnet_cond_embedding.conv_out.weight.normal_(std=0.1, generator=draw)
