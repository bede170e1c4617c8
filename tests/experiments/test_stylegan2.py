"""StyleGAN2 against the equations of its paper; its training resumes bit for bit; its sampler is deterministic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d
from torch import Tensor

from experiments.stylegan2.networks import (
    GAIN,
    Generator,
    ModulatedConv,
    StyleGAN2Config,
    downsample,
    upsample,
)
from experiments.stylegan2.sampler import StyleGAN2, load_stylegan2
from experiments.stylegan2.training import (
    SETTINGS,
    AdaptiveChance,
    augment,
    known_types,
    path_lengths,
    r1_penalty,
    train_stylegan2,
)
from mrtutor.pipeline.draw import DrawSpec, draw_sets
from mrtutor.vocabulary import IDH

FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64  # StyleGAN2's low-pass filter, sum 1
TINY = StyleGAN2Config(channels=(16, 16, 8, 8, 8), latent=16, mapping_layers=2, r1_every=3, path_every=2, ada_images=16)
FULL = replace(TINY, channels=(8, 8, 8, 8, 8, 4, 4))  # draws 256 pixels
SHORT = replace(SETTINGS, steps=6, batch_size=4, crop=64, checkpoint_every=3)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def word_for_word(layer: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """Eq. 1 and 3 of StyleGAN2: weights for each sample, modulated, then demodulated."""
    s = layer.affine(w)
    weight = layer.scaled_weight()[None] * s[:, None, :, None, None]  # (B, O, I, k, k)
    if layer.demodulate:
        weight = GAIN * weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    padding = weight.shape[-1] // 2
    return torch.cat([F.conv2d(x[b : b + 1], weight[b], padding=padding) for b in range(len(x))])


@pytest.mark.parametrize(("kernel", "demodulate"), [(3, True), (1, False)])
def test_modulated_convolution_and_its_gradients_equal_the_equation(kernel, demodulate):
    layer = ModulatedConv(6, 5, kernel, style=8, demodulate=demodulate).double()
    x, w = torch.randn(3, 6, 9, 9).double(), torch.randn(3, 8).double().requires_grad_(True)
    ours, theirs = layer(x, w), word_for_word(layer, x, w)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    y, wanted = torch.randn_like(ours), (layer.weight, layer.affine.weight, w)
    gradients = [torch.autograd.grad((drawn * y).sum(), wanted) for drawn in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_resampling_is_the_papers_filter():
    x = np.random.default_rng(0).normal(size=(12, 12))
    spread = np.zeros((24, 24))
    spread[::2, ::2] = x
    up = upsample(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(up[2:-2, 2:-2], convolve2d(spread, 4 * FILTER)[3:-4, 3:-4], atol=1e-12)
    down = downsample(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(down[1:-1, 1:-1], convolve2d(x, FILTER, mode="valid")[1::2, 1::2], atol=1e-12)
    assert torch.autograd.gradgradcheck(downsample, torch.randn(1, 2, 6, 6).double().requires_grad_(True)), "for R1"


def test_r1_is_the_squared_gradient_and_can_be_descended():
    weight = torch.randn(1, 1, 8, 8, requires_grad=True)
    images = torch.randn(5, 1, 8, 8, requires_grad=True)
    penalty = r1_penalty((images**2 * weight).sum(dim=(1, 2, 3)), images)  # ∇D = 2 w x
    by_hand = (2 * weight * images).square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(penalty, by_hand)
    torch.testing.assert_close(torch.autograd.grad(penalty, weight), torch.autograd.grad(by_hand, weight))


def test_path_length_is_the_norm_of_the_jacobian_product():
    matrix = torch.randn(5, 64, requires_grad=True)  # picture = w A, 8 x 8, so J = Aᵀ
    w, y = torch.randn(3, 5, requires_grad=True), torch.randn(3, 1, 8, 8)
    lengths = path_lengths((w @ matrix).view(-1, 1, 8, 8), w, y)
    by_hand = (y.flatten(1) / 8 @ matrix.T).norm(dim=1)
    torch.testing.assert_close(lengths, by_hand)
    torch.testing.assert_close(torch.autograd.grad(lengths.sum(), matrix), torch.autograd.grad(by_hand.sum(), matrix))


def test_augmentation_is_seeded_and_its_chance_follows_the_discriminator():
    images = torch.rand(8, 1, 32, 32)
    assert torch.equal(augment(images, 0.0, torch.Generator()), images)
    first, again, other = (augment(images, 0.7, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    chance = AdaptiveChance(target=0.6, images=160, every=2)
    moves = []
    for logits in (torch.ones(8), torch.ones(8), torch.tensor([3.0, -1.0] * 4), torch.tensor([3.0, -1.0] * 4)):
        chance.observe(logits)
        moves.append(chance.p)
    assert moves == pytest.approx([0, 0.1, 0.1, 0]), "up for a sure one, down for a guessing one"


def test_unknown_types_are_taught_as_either():
    facts = torch.tensor([[0, 1], [0, 0], *[[0, -1]] * 40])
    idh = known_types(facts, torch.Generator().manual_seed(0))
    assert idh[:2].tolist() == [1, 0] and set(idh[2:].tolist()) == {0, 1}


def test_training_resumes_bit_for_bit_and_refuses_another_run(tiny_cohort, tmp_path):
    options = {"config": TINY, "settings": SHORT}
    whole = train_stylegan2([tiny_cohort], tmp_path / "whole", **options)
    train_stylegan2([tiny_cohort], tmp_path / "cut", **options, stop_after=4)
    resumed = train_stylegan2([tiny_cohort], tmp_path / "cut", **options, resume=True)
    for a, b in zip(whole.generator.parameters(), resumed.generator.parameters(), strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all()
    states = [torch.load(tmp_path / run / "training/checkpoint.pt", weights_only=True) for run in ("whole", "cut")]
    first, second = (state["state"]["game"] for state in states)
    assert first["chance"] == second["chance"] and first["path_average"] == second["path_average"] != 0
    assert load_stylegan2(tmp_path / "cut/stylegan2").about["steps"] == 6
    with pytest.raises(ValueError, match="another run"):
        train_stylegan2([tiny_cohort], tmp_path / "cut", **options, seed=1, resume=True)


def test_sampler_depends_on_seed_and_type_alone_and_survives_saving(tiny_cohort, tmp_path):
    generator = Generator(FULL).eval()
    with torch.no_grad():
        for level in generator.levels:
            level.layer.strength.fill_(0.1)  # at the start noise has no strength; here it must be seen
    gan = StyleGAN2(generator, FULL, {"steps": 0})
    three = gan.sequences(["wild", IDH.MUTANT, "wild"], seeds=[5, 6, 7])
    assert three.shape == (3, 4, 256, 256) and 0 <= three.min() < three.max() <= 1
    assert torch.equal(gan.sequences(["wild"], seeds=[7])[0], three[2]) and not torch.equal(three[0], three[2])
    assert not torch.equal(gan.sequences(["mutant"], seeds=[5])[0], three[0]), "the type matters"
    assert all((three[0, a] - three[0, b]).abs().max() > 1e-3 for a in range(4) for b in range(a))
    assert load_stylegan2(device="cpu").sequences(["wild"], seeds=[0]).std() > 0.05, "the shipped one opens"
    gan.save(tmp_path / "gan")
    loaded = load_stylegan2(tmp_path / "gan", device="cpu")
    assert (loaded.sequences(["wild"], seeds=[5])[0] - three[0]).abs().max() < 0.02, "float16 rounds"
    drawn = draw_sets(DrawSpec(2), tmp_path / "set", loaded, tiny_cohort)
    assert drawn.images.shape == (2, 4, 256, 256) and drawn.images.std() > 1
