"""The pipeline: what must be equal is equal, what must differ differs, and the fast way is the ordinary way."""

from functools import cache

import diffusers
import numpy as np
import pytest
import torch

from mrtutor.models.autoencoder import decode
from mrtutor.models.text import encode_prompts
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Findings, Modality, sentence
from tests.models.tiny_pipelines import build, seeded

VARIANTS = ["none", "paper", "A", "B", "C", "D"]
SENTENCES = [sentence(modality, IDH.WILD) for modality in Modality]
CLOSE = 1e-4  # of images in [0, 1]; float32 sums in another order
pipelines = cache(build)


@pytest.fixture
def structure():
    """A brain-like outline and a ring inside, (256, 256) bool."""
    y, x = torch.meshgrid(torch.arange(256) - 128, torch.arange(256) - 128, indexing="ij")
    radius, ring = (y**2 / 1.4 + x**2).sqrt(), ((y + 20) ** 2 + (x - 30) ** 2).sqrt()
    return ((radius - 80).abs() < 0.7) | ((ring - 18).abs() < 0.7)


def noise_of(pipe, seed=0):
    return torch.randn(1, pipe.unet.config.out_channels, 32, 32, generator=seeded(seed))


def one(pipe, prompt, structure, seed=0, **options):
    return pipe(prompt, structure, generator=seeded(seed), **options).images[0]


@torch.no_grad()
def textbook(pipe, prompt, structure, seed, scale, guide_structure=False):
    """The sampler as a textbook has it: a picture at a time, a call for each half of guidance, structure each time."""
    text, mask = encode_prompts(pipe.text_encoder, pipe.tokenizer, ["", prompt])
    mask = mask if pipe.config.mask_padding else None
    condition = structure if structure is None else structure[None, None].float()
    condition = pipe.method.condition(condition, pipe.autoencoder)
    pipe.scheduler.set_timesteps(3)
    latents = noise_of(pipe, seed)
    for t in pipe.scheduler.timesteps:
        halves = []
        for row, on in ((0, 0.0 if guide_structure else 1.0), (1, 1.0)):
            given = {"mask": mask if mask is None else mask[row : row + 1], "scale": on}
            parts = (pipe.unet, pipe.guidance, latents, t, text[row : row + 1], condition)
            halves.append(pipe.method.predict(*parts, **given))
        plain, wanted = halves
        latents = pipe.scheduler.step(plain + scale * (wanted - plain), t, latents).prev_sample
    return (decode(pipe.autoencoder, latents)[0, 0] / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("masked", "guide"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_way_is_the_ordinary_way(variant, masked, guide, structure):
    """One batch, structure computed once, shared noise: the pictures of the textbook loop."""
    pipe = pipelines(variant, mask_padding=masked)
    given, options = None if variant == "none" else structure, {"guidance_scale": 2.0, "guide_structure": guide}
    ours = pipe.sequence("mutant", given, seed=np.int64(3), modalities=["t1ce", "T2"], **options)
    for modality, picture in ours.items():
        ordinary = textbook(pipe, sentence(modality, "mutant"), given, 3, *options.values())
        assert (picture - ordinary).abs().max() < CLOSE
    assert (ours[Modality.T2] - ours[Modality.T1GD]).abs().max() > 30 * CLOSE, "words must matter for this test"


def test_pictures_are_as_promised(structure):
    pipe = pipelines("paper")
    images = pipe(SENTENCES, structure, generator=seeded()).images
    assert images.shape == (4, 256, 256) and 0 <= images.min() < images.max() <= 1
    assert not images.is_inference(), "autograd must be able to use generated pictures"
    again, other = (pipe(SENTENCES, structure, generator=seeded(s), output_type="np").images for s in (0, 1))
    assert torch.equal(torch.from_numpy(again), images) and abs(other - again).max() > 0.05
    off = one(pipe, SENTENCES[0], structure, structure_scale=0.0)
    assert (off - one(pipelines("none"), SENTENCES[0], None)).abs().max() < CLOSE


@pytest.mark.parametrize("variant", ["paper", "D"])
@pytest.mark.parametrize("kind", ["DDIM", "EulerAncestralDiscrete", "LCM"])
def test_a_row_of_a_sequence_is_what_its_sentence_gives_alone(variant, kind, structure, monkeypatch):
    """Also where the scheduler draws noise in each step: that is shared, too."""
    pipe, findings = pipelines(variant), Findings(side="left", size="large")
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    sequence = pipe.sequence("mutant", structure, seed=4, findings=findings, eta=1.0)
    alone, silent = (one(pipe, sentence("T1", "mutant", f), structure, 4, eta=1.0) for f in (findings, None))
    assert (sequence[Modality.T1] - alone).abs().max() < CLOSE
    assert (silent - alone).abs().max() > CLOSE, "findings must reach the sentence"


@pytest.mark.parametrize("kind", ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_other_schedulers_agree_with_ddim(kind, structure, monkeypatch):
    """All solve one equation: with many steps a better solver ends near DDIM, and is nearer than with few."""
    pipe = pipelines("D")
    reference = one(pipe, SENTENCES[0], structure, num_inference_steps=60, guidance_scale=1)
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    near, far = (one(pipe, SENTENCES[0], structure, num_inference_steps=n, guidance_scale=1) for n in (30, 3))
    assert (near - reference).abs().mean() < 0.5 * (far - reference).abs().mean()


def test_guidance_acts_in_its_interval_only(structure):
    """t/T of four trailing steps: .999, .749, .499, .249."""
    pipe, sizes = pipelines("D"), []
    with pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]))):
        for scale, interval in ((3.0, None), (3.0, (0.3, 0.8)), (1, None)):
            pipe(SENTENCES[:2], structure, num_inference_steps=4, guidance_scale=scale, guidance_interval=interval)
    assert sizes == [4, 4, 4, 4, 2, 4, 4, 2, 2, 2, 2, 2]


def test_eta_makes_ddim_random_but_not_where_latents_are_given(structure):
    usual = pipelines("D")
    lively = MRPipeline(**usual.components, variant="D", sampler=usual.sampler.replace(eta=1.0), mask_padding=True)
    lively.precision = torch.float32
    calm, random = (one(pipe, SENTENCES[0], structure) for pipe in (usual, lively))
    assert (calm - random).abs().max() > 10 * CLOSE
    assert torch.equal(*(one(lively, SENTENCES[0], structure, seed, latents=noise_of(usual)) for seed in (0, 1)))


def test_callback_sees_and_may_change_every_step_and_may_fail(structure):
    pipe, steps = pipelines("paper"), []
    before = one(pipe, SENTENCES[0], structure)

    def stop_light(_, i, t, tensors):
        steps.append((i, int(t)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = one(pipe, SENTENCES[0], structure, callback_on_step_end=stop_light, output_type="latent")
    assert steps == [(0, 999), (1, 666), (2, 332)] and (latents == 0).all()
    with pytest.raises(ZeroDivisionError):
        pipe(SENTENCES[0], structure, callback_on_step_end=lambda *_: 1 / 0)
    assert torch.equal(one(pipe, SENTENCES[0], structure), before), "the networks must be whole again"
    clean = torch.ones(1, 4, 32, 32, requires_grad=True)  # and the scheduler must be able to train
    pipe.scheduler.add_noise(clean, torch.zeros_like(clean), torch.tensor([10])).sum().backward()


def test_bfloat16_draws_nearly_the_same(structure, monkeypatch):
    pipe, kinds = pipelines("paper"), []
    exact = one(pipe, SENTENCES[0], structure)
    monkeypatch.setattr(pipe, "precision", torch.bfloat16)
    with pipe.unet.conv_out.register_forward_hook(lambda module, args, out: kinds.append(out.dtype)):
        rounded = one(pipe, SENTENCES[0], structure)
    assert set(kinds) == {torch.bfloat16} and rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.01


def test_grain_is_each_modality_its_own_and_the_same_again(structure):
    pipe = build("D")
    pipe.register_to_config(grain={"std": 0.05, "width": 0.7})
    drawn = [pipe.sequence("wild", structure, seed=3, grain=grain) for grain in (None, True, False)]
    grained, again, mean = (torch.stack([*sequence.values()]) for sequence in drawn)
    assert torch.equal(grained, again)
    noise = (grained - mean)[:, ((mean > 0.2) & (mean < 0.8)).all(dim=0)]  # away from the clamp
    assert noise.std() == pytest.approx(0.05, rel=0.15)
    assert torch.corrcoef(noise)[~torch.eye(4, dtype=bool)].abs().max() < 0.2, "modalities must differ in noise"


BAD = {
    "no prompt": ([], 1, {}),
    "structure missing": ("T2", 0, {}),
    "steps": ("T2", 1, {"num_inference_steps": 0}),
    "output": ("T2", 1, {"output_type": "jpeg"}),
    "generators": (["T2"] * 3, 1, {"generator": [seeded(), seeded()]}),
    "latents not finite": ("T2", 1, {"latents": torch.full((1, 8, 32, 32), float("nan"))}),
    "too long": ("glioma " * 99, 1, {}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn_is_refused_before_computing(case, structure, monkeypatch):
    prompt, maps, options = BAD[case]
    monkeypatch.setattr(pipelines("D").unet, "forward", lambda *a, **k: pytest.fail("it was drawn"))
    with pytest.raises(ValueError, match=r"[Ee]xpected|needs"):
        pipelines("D")(prompt, torch.stack([structure] * maps) if maps else None, **options)
    with pytest.raises(ValueError, match="one edge map"):
        pipelines("D").sequence("wild", torch.stack([structure, structure]))
    with pytest.raises(ValueError, match="structure=None"):
        pipelines("none")("T2", structure)
