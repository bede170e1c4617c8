"""Autoencoder, denoiser, schedule, number formats: the sizes they promise, whatever the number of latent channels."""

from dataclasses import replace

import pytest
import torch

from mrtutor.models import autoencoder as models
from mrtutor.models import build_components, precision
from mrtutor.models.autoencoder import build_autoencoder, decode, encode, factor_of
from mrtutor.models.unet import build_denoiser, build_scheduler
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.presets import PRESETS, load_preset


def test_every_preset_goes_down_by_eight_and_the_papers_sizes_are_those_of_stable_diffusion():
    with torch.device("meta"):
        for preset in PRESETS.values():
            assert factor_of(build_autoencoder(preset.autoencoder)) == 8
            assert preset.denoiser.latent_channels == preset.autoencoder.latent_channels
        preset = PRESETS["paper"]
        assert build_denoiser(preset.denoiser, preset.text.hidden).num_parameters() == 859_520_964
        assert build_autoencoder(preset.autoencoder).num_parameters() == 83_653_863


@pytest.mark.parametrize("variant", ["paper", "C", "D"])
def test_a_pipeline_with_other_latent_channels_draws(variant):
    smoke = load_preset("smoke")
    autoencoder, denoiser = (replace(part, latent_channels=8) for part in (smoke.autoencoder, smoke.denoiser))
    parts = build_components(replace(smoke, autoencoder=autoencoder, denoiser=denoiser), variant)
    pipe = MRPipeline(**parts, variant=variant)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("A T2 modality MR image", torch.eye(256), num_inference_steps=2).images
    assert images.shape == (1, 256, 256) and torch.isfinite(images).all() and pipe.unet.config.out_channels == 8


@torch.no_grad()
def test_latents_are_normalised_per_channel():
    torch.manual_seed(0)
    autoencoder = build_autoencoder(replace(load_preset("smoke").autoencoder, latent_channels=5)).eval()
    images = torch.rand(4, 1, 256, 256) * 2 - 1
    raw = autoencoder.encode(models.to_channels(autoencoder, images)).latent_dist.mode()
    models.set_latent_statistics(autoencoder, raw)
    latents = encode(autoencoder, images)
    assert latents.shape == (4, 5, 32, 32)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(5), atol=1e-3)
    direct = models.from_channels(autoencoder, autoencoder.decode(raw).sample)
    assert torch.allclose(decode(autoencoder, latents), direct, atol=1e-4)


@torch.no_grad()
def test_a_three_channel_autoencoder_takes_and_gives_grey():
    tiny = build_autoencoder(replace(load_preset("paper").autoencoder, widths=(8, 8, 8, 8), layers=1, norm_groups=4))
    latents = encode(tiny, torch.rand(1, 1, 64, 64))
    assert latents.shape[2:] == (8, 8) and decode(tiny, latents).shape == (1, 1, 64, 64)


def test_the_schedule_ends_in_pure_noise():
    scheduler = build_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999, "sampling must start where the signal is gone"
    assert build_scheduler("epsilon").alphas_cumprod[-1] > 1e-3


def test_number_formats():
    assert precision.probe() in (torch.float32, torch.bfloat16)
    x = torch.ones(2, 2)
    with precision.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with precision.autocast("cpu", torch.float32):
            assert (x @ x).dtype == torch.float32, "float32 means no autocast even inside one"
