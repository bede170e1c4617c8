"""Presets build with the sizes they promise; `paper` on the meta device, with no memory."""

import pytest
import torch

from mrtutor.models.autoencoder import (
    build_autoencoder,
    decode,
    encode,
    from_channels,
    set_latent_statistics,
    to_channels,
)
from mrtutor.models.denoiser import build_denoiser, build_scheduler, count_parameters
from mrtutor.presets import PRESETS, load_preset


def test_paper_unet_has_the_size_of_stable_diffusion():
    preset = load_preset("paper")
    with torch.device("meta"):
        unet = build_denoiser(preset.denoiser, preset.text.hidden)
        autoencoder = build_autoencoder(preset.autoencoder)
    assert count_parameters(unet) == 859_520_964
    assert count_parameters(autoencoder) == 83_653_863


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_down_by_eight(name):
    assert load_preset(name).autoencoder.factor == 8


def test_unknown_preset_lists_the_choices():
    with pytest.raises(ValueError, match="smoke, laptop, colab, paper"):
        load_preset("desktop")


def test_latents_are_normalised_per_channel():
    torch.manual_seed(0)
    autoencoder = build_autoencoder(load_preset("smoke").autoencoder).eval()
    images = torch.rand(4, 1, 256, 256) * 2 - 1
    with torch.no_grad():
        raw = autoencoder.encode(to_channels(autoencoder, images)).latent_dist.mode()
        set_latent_statistics(autoencoder, raw)
        latents = encode(autoencoder, images)
        assert latents.shape == (4, 4, 32, 32)
        assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
        direct = from_channels(autoencoder, autoencoder.decode(raw).sample)
        assert torch.allclose(decode(autoencoder, latents), direct, atol=1e-4)


def test_three_channel_autoencoder_takes_and_gives_grey():
    preset = load_preset("paper").autoencoder
    tiny = build_autoencoder(type(preset)(1, (8, 8, 8, 8), 1, 4, image_channels=3)).eval()
    images = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = encode(tiny, images)
        assert latents.shape == (1, 4, 8, 8)
        assert decode(tiny, latents).shape == images.shape


def test_wrong_channels_and_sides_are_reported():
    autoencoder = build_autoencoder(load_preset("smoke").autoencoder)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        to_channels(autoencoder, torch.zeros(1, 3, 256, 256))
    with pytest.raises(ValueError, match="multiples of 4"):
        to_channels(autoencoder, torch.zeros(1, 1, 250, 256))


def test_schedule_ends_in_pure_noise():
    scheduler = build_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-6
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999, "sampling must start where the signal is gone"
    assert build_scheduler("epsilon").alphas_cumprod[-1] > 1e-3
