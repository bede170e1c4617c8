"""Objectives against their equations."""

import pytest
import torch

from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.denoiser import build_denoiser, build_scheduler, widen_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, build_guidance
from mrtutor.presets import load_preset
from mrtutor.training.objectives import (
    AutoencoderObjective,
    DiffusionObjective,
    add_noise,
    min_snr_weight,
    reconstruction_loss,
    velocity,
)

SMOKE = load_preset("smoke")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    g = generator(5)
    return {
        "latent": torch.randn(3, 4, 32, 32, generator=g),
        "text": torch.randn(3, 7, SMOKE.text.hidden, generator=g),
        "structure": (torch.rand(3, 1, 256, 256, generator=g) > 0.95).float(),
    }


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_denoiser(SMOKE.denoiser, SMOKE.text.hidden).eval()


def test_noise_and_velocity_give_back_the_latent():
    """z_0 = √ᾱ z_t − √(1 − ᾱ) v: the rotation that DDIM inverts."""
    g = generator()
    latent, noise = torch.randn(2, 3, 4, 8, 8, generator=g)
    alpha_bar = torch.tensor([0.0, 0.3, 1.0])
    noisy, v = add_noise(latent, noise, alpha_bar), velocity(latent, noise, alpha_bar)
    root = alpha_bar.view(-1, 1, 1, 1)
    assert torch.allclose(root.sqrt() * noisy - (1 - root).sqrt() * v, latent, atol=1e-5)


def test_forward_process_equals_the_schedulers():
    scheduler = build_scheduler()
    g = generator()
    latent, noise = torch.randn(2, 3, 4, 8, 8, generator=g)
    t = torch.tensor([0, 500, 999])
    assert torch.allclose(
        add_noise(latent, noise, scheduler.alphas_cumprod[t]), scheduler.add_noise(latent, noise, t), atol=1e-6
    )
    assert torch.allclose(
        velocity(latent, noise, scheduler.alphas_cumprod[t]), scheduler.get_velocity(latent, noise, t), atol=1e-6
    )


def test_min_snr_weights():
    alpha_bar = torch.tensor([0.5, 0.99, 0.0])  # SNR 1, 99, 0
    assert torch.allclose(min_snr_weight(alpha_bar, "v_prediction", floor=0.0), torch.tensor([0.5, 0.05, 0.0]))
    assert torch.allclose(min_snr_weight(alpha_bar, "epsilon", floor=0.0)[:2], torch.tensor([1.0, 5 / 99]), atol=1e-5)
    assert min_snr_weight(alpha_bar, "v_prediction")[-1] > 0, "the first sampling step must be trained too"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_perfect_prediction_costs_nothing(prediction, batch, monkeypatch):
    objective = DiffusionObjective(build_scheduler(prediction))
    noise, t = torch.randn(3, 4, 32, 32, generator=generator(1)), torch.tensor([3, 400, 900])
    alpha_bar = objective.scheduler.alphas_cumprod[t]
    answer = noise if prediction == "epsilon" else velocity(batch["latent"], noise, alpha_bar)
    monkeypatch.setattr("mrtutor.training.objectives.predict", lambda *_, **__: answer)
    assert objective.at(None, batch, t, noise)[0] == 0
    monkeypatch.setattr("mrtutor.training.objectives.predict", lambda *_, **__: answer + 1)
    assert objective.at(None, batch, t, noise)[1]["error"] == pytest.approx(1.0, abs=1e-5)


def test_same_generator_same_loss(unet, batch):
    objective = DiffusionObjective(build_scheduler())
    first, second, other = (objective(unet, batch, generator(s))[0] for s in (1, 1, 2))
    assert first == second != other


def test_guidance_trains_the_guidance_alone(unet, batch):
    frozen = unet.requires_grad_(False)
    guidance = build_guidance(frozen, Variant.B).requires_grad_(True)
    loss, _ = DiffusionObjective(build_scheduler(), Variant.B, frozen)(guidance, batch, generator())
    loss.backward()
    assert guidance.controlnet_mid_block.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in frozen.parameters())
    unet.requires_grad_(True)


def test_dropped_structure_is_empty(unet, batch, monkeypatch):
    seen = []
    objective = DiffusionObjective(build_scheduler(), Variant.D, drop_structure=0.5)
    monkeypatch.setattr(
        "mrtutor.training.objectives.predict", lambda *a, **_: seen.append(a[-1]) or torch.zeros(3, 4, 32, 32)
    )
    for seed in range(10):
        objective(widen_input(unet, STRUCTURE_CHANNELS), batch, generator(seed))
    empty = sum((condition.flatten(1).sum(1) == 0).sum().item() for condition in seen)
    assert 5 < empty < 25  # 30 rows, each empty with probability 1/2


def test_autoencoder_objective_counts_error_and_kl():
    torch.manual_seed(0)
    model = build_autoencoder(SMOKE.autoencoder)
    image = {"image": torch.rand(2, 1, 64, 64, generator=generator()) * 2 - 1}
    loss, logs = AutoencoderObjective(gradient_weight=0, kl_weight=0)(model, image, generator())
    assert loss.item() == pytest.approx((logs["l1"] + 2 * logs["l2"]).item(), rel=1e-5)
    heavier, _ = AutoencoderObjective(gradient_weight=0, kl_weight=1.0)(model, image, generator())
    assert heavier.item() == pytest.approx((loss + logs["kl"]).item(), rel=1e-4)


def test_reconstruction_loss_of_a_step_edge():
    error = torch.zeros(1, 1, 4, 4)
    error[..., 2:] = 0.5  # half of the picture; one of three column differences is 0.5
    l1, l2, gradient = 0.25, 0.125, 0.5 / 3
    assert reconstruction_loss(error).item() == pytest.approx(l1 + 2 * l2 + 0.5 * gradient)
    assert reconstruction_loss(error, l2_weight=0, gradient_weight=0).item() == pytest.approx(l1)
