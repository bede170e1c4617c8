"""Layers and losses of StyleGAN2 against the equations of the paper, closed forms and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from mrtutor.baselines.layers import (
    GAIN,
    EqualConv,
    EqualLinear,
    ModulatedConv,
    downsample,
    minibatch_stddev,
    upsample,
)
from mrtutor.baselines.losses import discriminator_loss, generator_loss, path_lengths, path_penalty, r1_penalty

FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64  # StyleGAN2's low-pass filter, sum 1


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_scaled_activations_equal_the_papers_weights_per_sample(demodulate, kernel):
    layer = ModulatedConv(6, 5, kernel, style=8, demodulate=demodulate).double()
    x, w = torch.randn(3, 6, 9, 9).double(), torch.randn(3, 8).double()
    torch.testing.assert_close(layer(x, w), layer.explicit(x, w), rtol=1e-5, atol=1e-5)  # factors are float32
    one, other = layer(x, w[:1].expand(3, -1)), layer(x, w)
    assert torch.allclose(one[0], other[0]) and not torch.allclose(one[1], other[1]), "each sample has its own style"


def test_gradients_of_both_forms_agree():
    layer = ModulatedConv(4, 3, 3, style=5).double()
    x, w = torch.randn(2, 4, 6, 6).double(), torch.randn(2, 5).double().requires_grad_(True)
    wanted = (layer.weight, layer.affine.weight, w)
    weights = torch.randn(2, 3, 6, 6).double()
    scaled, explicit = (torch.autograd.grad((f(x, w) * weights).sum(), wanted) for f in (layer, layer.explicit))
    torch.testing.assert_close(scaled, explicit, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_demodulation_gives_the_same_variance_whatever_the_style(strength):
    """Eq. 2 and 3: unit variance per output channel for independent inputs, times the gain of the ReLU after it."""
    layer = ModulatedConv(64, 16, 3, style=8)
    y = layer(torch.randn(8, 64, 40, 40), strength * torch.randn(8, 8))[..., 1:-1, 1:-1]
    assert y.std(dim=(2, 3)).mean().item() == pytest.approx(GAIN, rel=0.02)
    plain = ModulatedConv(64, 16, 3, style=8, demodulate=False)
    assert plain(torch.randn(1, 64, 40, 40), 30 * torch.randn(1, 8)).std() > 5, "without it the style sets the variance"


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalised_layers_keep_variance_and_gain(rate):
    linear, conv = EqualLinear(256, 256, rate=rate, gain=2), EqualConv(64, 64, 3, gain=2)
    assert linear(torch.randn(64, 256)).std().item() == pytest.approx(2, rel=0.05)
    assert conv(torch.randn(4, 64, 20, 20))[..., 1:-1, 1:-1].std().item() == pytest.approx(2, rel=0.05)
    assert linear.weight.std().item() == pytest.approx(1 / rate, rel=0.05), "stored large: Adam's steps weigh less"


def test_upsampling_is_zero_insertion_and_the_papers_filter():
    x = np.random.default_rng(0).normal(size=(7, 7))
    spread = np.zeros((14, 14))
    spread[::2, ::2] = x
    wanted = convolve2d(spread, 4 * FILTER)[1:-2, 1:-2]
    ours = upsample(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-12)


def test_downsampling_is_the_papers_filter_and_every_other_pixel():
    x = np.random.default_rng(0).normal(size=(12, 12))
    wanted = convolve2d(x, FILTER, mode="valid")[1::2, 1::2]
    ours = downsample(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours[1:-1, 1:-1], wanted, atol=1e-12)
    assert ours.mean() == pytest.approx(x.mean()), "no brightness is lost at the border"
    y = torch.randn(1, 2, 6, 6).double().requires_grad_(True)
    assert torch.autograd.gradgradcheck(downsample, y), "R1 differentiates through it twice"


def test_minibatch_stddev_of_known_groups():
    x = torch.tensor([0.0, 5.0, 2.0, 5.0, 4.0, 5.0, 6.0, 5.0])  # group 0: 0, 2, 4, 6; group 1: all 5
    out = minibatch_stddev(x[:, None, None, None].expand(-1, 3, 2, 2))
    assert out.shape == (8, 4, 2, 2)
    known = torch.tensor([math.sqrt(5), 1e-4]).repeat(4)[:, None, None].expand(-1, 2, 2)
    torch.testing.assert_close(out[:, 3], known, rtol=1e-4, atol=1e-6)
    assert minibatch_stddev(torch.randn(6, 1, 2, 2))[:, 1].unique().numel() == 1, "6 samples are one group"


def test_losses_at_undecided_and_certain_logits():
    zero, large = torch.zeros(4), torch.full((4,), 40.0)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss(large, -large).item() == pytest.approx(0, abs=1e-6)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    fooled = torch.tensor([-20.0], requires_grad=True)
    generator_loss(fooled).backward()
    assert fooled.grad.item() == pytest.approx(-1), "non-saturating: a beaten generator still learns"


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    weight = torch.randn(1, 1, 8, 8, requires_grad=True)
    images = torch.randn(5, 1, 8, 8, requires_grad=True)
    penalty = r1_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_path_length_of_a_linear_generator_is_the_norm_of_a_product():
    matrix = torch.randn(5, 64, requires_grad=True)  # picture = w A, 8 x 8, so J = Aᵀ
    w, y = torch.randn(3, 5, requires_grad=True), torch.randn(3, 1, 8, 8)
    lengths = path_lengths((w @ matrix).view(-1, 1, 8, 8), w, y)
    torch.testing.assert_close(lengths, (y.flatten(1) / 8 @ matrix.T).norm(dim=1))
    lengths.sum().backward()
    assert matrix.grad.abs().sum() > 0


def test_path_penalty_pulls_towards_a_running_average():
    penalty, average = path_penalty(torch.tensor([2.0, 4.0]), 1.0)
    assert average == pytest.approx(1.02)
    assert penalty.item() == pytest.approx((0.98**2 + 2.98**2) / 2, rel=1e-5)
