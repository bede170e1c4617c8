"""The pipeline: what must be equal is equal, what must differ differs, and the fast way is the ordinary way."""

import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tiny_pipelines import seeded

from mrtutor.metrics.cost import ordinary_sequence, our_sequence
from mrtutor.models.guidance import predict, structure_condition
from mrtutor.models.text import encode_prompts
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Modality, prompt

VARIANTS = ["none", "A", "B", "C", "D"]
GUIDED = VARIANTS[1:]
CLOSE = 1e-4  # of images in [0, 1]; float32 sums in another order


def stacked(sequence):
    return torch.stack(list(sequence.values()))


def test_pictures_are_as_promised(pipelines, structure, sentences):
    images = pipelines("D")(sentences, structure, generator=seeded()).images
    assert images.shape == (4, 256, 256)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not images.is_inference(), "autograd must be able to use generated pictures"


def test_output_types_show_the_same_picture(pipelines, structure, sentences):
    def draw(kind):
        return pipelines("D")(sentences[:2], structure, generator=seeded(), output_type=kind).images

    pt = draw("pt")
    assert torch.equal(torch.from_numpy(draw("np")), pt)
    pil = draw("pil")
    assert [(p.mode, p.size) for p in pil] == [("L", (256, 256))] * 2
    assert pil[1].getpixel((100, 60)) == round(pt[1, 60, 100].item() * 255)
    assert draw("latent").shape == (2, 4, 32, 32)
    assert torch.equal(pipelines("D")(sentences[:2], structure, generator=seeded(), return_dict=False)[0], pt)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_way_is_the_ordinary_way(variant, pipelines, structure):
    """One batch, precomputed structure, shared noise: the pictures of the textbook loop, for every variant."""
    pipe = pipelines(variant)
    given = None if variant == "none" else structure
    ordinary = ordinary_sequence(pipe, "mutant", given, seed=3, steps=3)
    ours = our_sequence(pipe, "mutant", given, seed=3, steps=3)
    assert (ours - ordinary).abs().max() < CLOSE
    assert (ours[0] - ours[1]).abs().max() > 100 * CLOSE, "the test would not see swapped modalities"


def test_same_seed_same_picture(pipelines, structure):
    pipe = pipelines("D")
    first, again, other = (stacked(pipe.sequence("wild", structure, seed=s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.05


def test_a_sequence_shares_the_noise_but_not_the_word(pipelines, structure, monkeypatch):
    pipe, seen = pipelines("D"), []
    monkeypatch.setattr(pipe.scheduler, "scale_model_input", lambda x, t: seen.append(x.clone()) or x)
    sequence = pipe.sequence(IDH.WILD, structure, seed=1)
    assert list(sequence) == list(Modality)
    assert seen[0].shape == (4, 4, 32, 32)
    assert all(torch.equal(row, seen[0][0]) for row in seen[0]), "the initial noise must be one"
    assert torch.equal(seen[0][0], torch.randn(1, 4, 32, 32, generator=seeded(1))[0])
    assert not torch.equal(seen[1][0], seen[1][1]), "after a step the modality word must tell"


def test_chosen_modalities_come_in_the_order_asked(pipelines, structure):
    pipe = pipelines("D")
    some = pipe.sequence("wt", structure, seed=2, modalities=["t2", "T1ce"])
    assert list(some) == [Modality.T2, Modality.T1GD]
    whole = pipe.sequence("wild", structure, seed=2)
    assert (some[Modality.T2] - whole[Modality.T2]).abs().max() < CLOSE


@pytest.mark.parametrize("variant", ["B", "D"])
def test_four_at_once_equal_one_by_one(variant, pipelines, structure, sentences):
    pipe = pipelines(variant)
    noise = torch.randn(4, 4, 32, 32, generator=seeded(7))
    maps = torch.stack([structure, structure.flip(0), structure.flip(1), structure.T])
    together = pipe(sentences, maps, latents=noise).images
    alone = torch.cat([pipe(sentences[i], maps[i], latents=noise[i : i + 1]).images for i in range(4)])
    assert (together - alone).abs().max() < CLOSE
    assert (together[0] - together[1]).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("variant", GUIDED)
def test_structure_changes_the_picture(variant, pipelines, structure, sentences):
    pipe = pipelines(variant)
    first, second = (pipe(sentences[0], s, generator=seeded()).images for s in (structure, structure.flip(-1)))
    assert (first - second).abs().max() > 10 * CLOSE


@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_structure_scale_zero_is_the_plain_model(variant, pipelines, structure, sentences):
    off = pipelines(variant)(sentences[0], structure, structure_scale=0.0, generator=seeded()).images
    plain = pipelines("none")(sentences[0], generator=seeded()).images
    assert (off - plain).abs().max() < CLOSE


def test_structure_scale_zero_is_an_empty_input_for_concat(pipelines, structure, sentences):
    pipe = pipelines("D")
    off = [pipe(sentences[0], s, structure_scale=0.0, generator=seeded()).images for s in (structure, structure.T)]
    assert torch.equal(*off)


def batch_sizes(pipe, structure, sentences, **options):
    """Rows of each call of the U-Net, and the pictures."""
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        images = pipe(sentences, structure, generator=seeded(), num_inference_steps=4, **options).images
    finally:
        hook.remove()
    return sizes, images


@pytest.mark.parametrize("variant", ["B", "D"])
def test_guidance_interval(variant, pipelines, structure, sentences):
    """t/T of four trailing steps: .999, .749, .499, .249."""
    pipe = pipelines(variant)
    always, plain = batch_sizes(pipe, structure, sentences, guidance_scale=3.0, guidance_interval=(0.0, 1.0))
    default, same = batch_sizes(pipe, structure, sentences, guidance_scale=3.0)
    assert always == default == [8, 8, 8, 8]
    assert torch.equal(plain, same)
    middle, inside = batch_sizes(pipe, structure, sentences, guidance_scale=3.0, guidance_interval=(0.3, 0.8))
    assert middle == [4, 8, 8, 4]
    assert (inside - plain).abs().max() > 10 * CLOSE
    never, outside = batch_sizes(pipe, structure, sentences, guidance_scale=3.0, guidance_interval=(0.0, 0.1))
    unguided, one = batch_sizes(pipe, structure, sentences, guidance_scale=1.0)
    assert never == unguided == [4, 4, 4, 4]
    assert torch.equal(outside, one)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("guide_structure", [False, True])
def test_guidance_is_its_formula(variant, guide_structure, pipelines, structure, sentences):
    """v = v₀ + w (v₁ - v₀), with the structure in v₀ or not; one step from t = 999, where v = -z₀."""
    pipe, given = pipelines(variant), None if variant == "none" else structure
    options = {"num_inference_steps": 1, "guidance_scale": 3.0, "output_type": "latent"}
    options["latents"] = torch.randn(1, 4, 32, 32, generator=seeded())
    ours = pipe(sentences, given, guide_structure=guide_structure, **options).images
    text = encode_prompts(pipe.text_encoder, pipe.tokenizer, ["", *sentences])
    condition = (
        None if given is None else structure_condition(given[None, None].float(), pipe.variant, pipe.autoencoder)
    )

    def v(states, scale):
        rows = options["latents"].expand(len(states), -1, -1, -1)
        shown = None if condition is None else condition.expand(len(states), -1, -1, -1)
        with torch.no_grad():
            return predict(pipe.unet, pipe.guidance, pipe.variant, rows, torch.tensor(999), states, shown, scale)

    plain = v(text[:1], 0.0 if guide_structure else 1.0)
    assert (ours + plain + 3.0 * (v(text[1:], 1.0) - plain)).abs().max() < 1e-3


@pytest.mark.parametrize("variant", GUIDED)
def test_guiding_the_structure_shows(variant, pipelines, structure, sentences):
    pipe = pipelines(variant)
    first, second = (
        pipe(sentences[0], structure, generator=seeded(), guide_structure=g, guidance_scale=3.0).images
        for g in (False, True)
    )
    assert (first - second).abs().max() > 10 * CLOSE


def test_structure_off_leaves_nothing_to_guide(pipelines, structure, sentences):
    options = {"structure_scale": 0.0, "guidance_scale": 3.0}
    first, second = (
        pipelines("D")(sentences[0], structure, generator=seeded(), guide_structure=g, **options).images
        for g in (False, True)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler])
def test_other_schedulers_agree_with_ddim(kind, pipelines, structure, monkeypatch):
    """All solve one equation: with many steps a better solver ends near DDIM, and is nearer than with few."""
    pipe = pipelines("D")
    reference = stacked(pipe.sequence("wild", structure, num_inference_steps=60, guidance_scale=1))
    monkeypatch.setattr(pipe, "scheduler", kind.from_config(pipe.scheduler.config))
    near, far = (stacked(pipe.sequence("wild", structure, num_inference_steps=n, guidance_scale=1)) for n in (30, 3))
    assert torch.isfinite(near).all()
    assert (near - reference).abs().mean() < 0.5 * (far - reference).abs().mean()


def test_stochastic_noise_is_shared_too(pipelines, structure, sentences, monkeypatch):
    pipe = pipelines("D")
    monkeypatch.setattr(pipe, "scheduler", EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config))
    sequence = pipe.sequence("wild", structure, seed=4)
    alone = pipe(prompt("T1", "wild"), structure, generator=seeded(4)).images[0]
    assert (sequence[Modality.T1] - alone).abs().max() < CLOSE
    twins = pipe(sentences[:1] * 2, structure, generator=[seeded(4), seeded(4)]).images
    assert torch.equal(twins[0], twins[1])
    strangers = pipe(sentences[:1] * 2, structure, generator=seeded(4)).images
    assert (strangers[0] - strangers[1]).abs().max() > 10 * CLOSE


def test_eta_of_the_config_holds_unless_latents_are_given(pipelines, structure, monkeypatch):
    usual, seen = pipelines("D"), []
    pipe = MRPipeline(**usual.components, **usual.parameters | {"eta": 0.5})
    own = pipe.scheduler.step

    def step(output, t, sample, eta=0.0, generator=None, return_dict=True):
        seen.append(eta)
        return own(output, t, sample, eta=eta, generator=generator, return_dict=return_dict)

    monkeypatch.setattr(pipe.scheduler, "step", step)
    pipe.set_progress_bar_config(disable=True)
    pipe.sequence("wild", structure, modalities=["T1"], num_inference_steps=1)
    pipe(prompt("FLAIR", "wild"), structure, latents=torch.zeros(1, 4, 32, 32), num_inference_steps=1)
    pipe(prompt("FLAIR", "wild"), structure, eta=0.25, num_inference_steps=1)
    assert seen == [0.5, 0.0, 0.25]


def test_eta_makes_ddim_random(pipelines, structure):
    pipe = pipelines("D")
    assert isinstance(pipe.scheduler, DDIMScheduler)
    calm, lively = (stacked(pipe.sequence("wild", structure, eta=eta)) for eta in (0.0, 1.0))
    assert (calm - lively).abs().max() > 10 * CLOSE
    assert torch.equal(lively, stacked(pipe.sequence("wild", structure, eta=1.0)))


def test_callback_sees_and_may_change_every_step(pipelines, structure, sentences):
    pipe, steps = pipelines("D"), []

    def stop_light(_, i, t, tensors):
        steps.append((i, int(t)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    images = pipe(sentences[:2], structure, callback_on_step_end=stop_light, output_type="latent").images
    assert steps == [(0, 999), (1, 666), (2, 332)]
    assert (images == 0).all()


@pytest.mark.parametrize("variant", GUIDED)
def test_networks_are_whole_again_after_an_error(variant, pipelines, structure, sentences):
    pipe = pipelines(variant)
    before = pipe(sentences[0], structure, generator=seeded()).images
    parts = (pipe.unet.conv_in, pipe.guidance and pipe.guidance.controlnet_cond_embedding)

    def fail(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pipe(sentences[0], structure, callback_on_step_end=fail)
    assert parts[0] is pipe.unet.conv_in
    assert parts[1] is (pipe.guidance and pipe.guidance.controlnet_cond_embedding)
    assert torch.equal(pipe(sentences[0], structure, generator=seeded()).images, before)


def test_scheduler_can_still_train_afterwards(pipelines, structure, sentences):
    pipe = pipelines("D")
    pipe(sentences[0], structure)
    assert not pipe.scheduler.timesteps.is_inference()
    clean = torch.ones(1, 4, 32, 32, requires_grad=True)
    pipe.scheduler.add_noise(clean, torch.zeros_like(clean), torch.tensor([10])).sum().backward()
    assert clean.grad is not None


def test_bfloat16_draws_nearly_the_same(pipelines, structure, monkeypatch):
    pipe = pipelines("B")
    exact = stacked(pipe.sequence("wild", structure))
    kinds = []
    hook = pipe.unet.conv_out.register_forward_hook(lambda m, a, out: kinds.append(out.dtype))
    monkeypatch.setattr(pipe, "precision", torch.bfloat16)
    rounded = stacked(pipe.sequence("wild", structure))
    hook.remove()
    assert set(kinds) == {torch.bfloat16}
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.01


@pytest.fixture
def grainy(pipelines):
    """A pipeline whose autoencoder leaves noise out."""
    pipe = pipelines("D")
    pipe.register_to_config(grain_std=0.05, grain_width=0.7)
    yield pipe
    pipe.register_to_config(grain_std=0.0, grain_width=0.0)


def test_grain_is_each_modality_its_own(grainy, structure):
    with_grain, mean = (stacked(grainy.sequence("wild", structure, seed=3, grain=g)) for g in (True, False))
    inside = ((mean > 0.2) & (mean < 0.8)).all(dim=0)  # away from the clamp
    noise = (with_grain - mean)[:, inside]
    assert noise.std() == pytest.approx(0.05, rel=0.15)
    between = torch.corrcoef(noise)[~torch.eye(4, dtype=bool)]
    assert between.abs().max() < 0.2, "the scanner's noise must differ between modalities"


def test_grain_is_the_same_again(grainy, structure):
    sequence, again = (stacked(grainy.sequence("wild", structure, seed=3)) for _ in range(2))
    assert torch.equal(sequence, again)
    alone = grainy(prompt("T2", "wild"), structure, generator=seeded(3)).images[0]
    assert (sequence[list(Modality).index(Modality.T2)] - alone).abs().max() < CLOSE


def test_two_pictures_of_one_sentence_differ_in_grain(grainy, structure, sentences):
    drawn, mean = (grainy([sentences[0]] * 2, structure, generator=seeded(), grain=g).images for g in (True, False))
    first, second = drawn - mean
    assert (first - second).abs().max() > 0.05


def test_given_latents_have_no_grain_unless_asked(grainy, structure, sentences):
    noise = torch.randn(1, 4, 32, 32, generator=seeded())
    default, without, asked = (
        grainy(sentences[0], structure, latents=noise, generator=seeded(), **options).images
        for options in ({}, {"grain": False}, {"grain": True})
    )
    assert torch.equal(default, without)
    assert not torch.equal(default, asked)


@pytest.fixture
def mirrored(pipelines):
    """A pipeline whose T2 gets the negative of the noise."""
    pipe = pipelines("D")
    pipe.register_to_config(mirrored=["T2"])
    yield pipe
    pipe.register_to_config(mirrored=[])


def test_a_mirrored_modality_is_drawn_from_the_negative_of_the_noise(mirrored, structure):
    sequence, plain = (stacked(mirrored.sequence("wild", structure, seed=2, mirror=m)) for m in (None, False))
    assert torch.equal(sequence[:3], plain[:3]), "the others stay as they are"
    noise = torch.randn(1, 4, 32, 32, generator=seeded(2))
    by_hand = mirrored(prompt("T2", "wild"), structure, latents=-noise).images[0]
    assert (sequence[3] - by_hand).abs().max() < CLOSE
    assert (sequence[3] - plain[3]).abs().max() > 10 * CLOSE


def test_the_noise_of_every_step_is_mirrored_too(mirrored, structure, monkeypatch):
    """At η = 1 a step adds noise: what the network sees of T2 must be what −ε at each step gives."""
    ours = mirrored.sequence("wild", structure, seed=2, eta=1.0)[Modality.T2]
    own = mirrored.scheduler.step

    def negative(output, t, sample, generator=None, **options):
        noise = torch.stack([-torch.randn(sample.shape[1:], generator=g) for g in generator])
        return own(output, t, sample, variance_noise=noise, **options)

    negative.__signature__ = inspect.signature(own)
    monkeypatch.setattr(mirrored.scheduler, "step", negative)
    generator = seeded(2)
    start = -torch.randn(1, 4, 32, 32, generator=generator)
    by_hand = mirrored(prompt("T2", "wild"), structure, latents=start, eta=1.0, generator=[generator]).images[0]
    assert (ours - by_hand).abs().max() < CLOSE


def test_given_latents_are_taken_as_they_are_unless_asked(mirrored, structure):
    noise = torch.randn(1, 4, 32, 32, generator=seeded())
    default, without, asked = (
        mirrored(prompt("T2", "wild"), structure, latents=noise, **options).images
        for options in ({}, {"mirror": False}, {"mirror": True})
    )
    assert torch.equal(default, without) and not torch.equal(default, asked)


def test_a_callback_sees_what_the_network_sees(mirrored, structure):
    seen = []
    mirrored.sequence(
        "wild",
        structure,
        seed=2,
        output_type="latent",
        callback_on_step_end=lambda *a: seen.append(a[3]["latents"]) or {},
    )
    final = stacked(mirrored.sequence("wild", structure, seed=2, output_type="latent"))
    assert torch.equal(seen[-1], final)
