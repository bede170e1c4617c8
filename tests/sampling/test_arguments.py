"""Bad input: each gives an error that says what was expected, before anything is computed."""

import pytest
import torch
from tiny_pipelines import build, seeded

from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import prompt

SENTENCE = prompt("T1", "wild")


@pytest.fixture
def draw(pipelines, structure):
    def call(sentence=SENTENCE, given=structure, **options):
        return pipelines("D")(sentence, given, **options).images

    return call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps from 1 to 1000"),
        ({"guidance_scale": float("nan")}, "finite number as guidance_scale"),
        ({"guidance_scale": float("inf")}, "finite number as guidance_scale"),
        ({"guidance_scale": "much"}, "finite number as guidance_scale"),
        ({"structure_scale": float("nan")}, "finite number as structure_scale"),
        ({"eta": float("nan")}, "finite number as eta"),
        ({"eta": 50}, r"eta from 0 \(deterministic\) to 1 .*, got 50: try 0"),
        ({"eta": -1}, "eta from 0 .*, got -1"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval"),
        ({"guidance_interval": (0.0, 2.0)}, "guidance_interval"),
        ({"guidance_interval": (0.5,)}, "guidance_interval"),
        ({"guide_structure": "yes"}, "guide_structure True or False, got 'yes'"),
        ({"output_type": "jpg"}, "pt, np, pil, latent"),
        ({"generator": 7}, "torch.Generator"),
        ({"generator": [seeded(), seeded()]}, "2 generators for 1 pictures"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, r"latents of shape \(1, 4, 32, 32\)"),
        ({"latents": torch.full((1, 4, 32, 32), float("nan"))}, "finite latents"),
        ({"latents": "noise"}, "latents of shape"),
    ],
)
def test_options_out_of_range(draw, options, message):
    with pytest.raises(ValueError, match=message):
        draw(**options)


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (SENTENCE + " very" * 40, "at most 32 tokens"),
        ([], "sentence or a list"),
        (None, "sentence or a list"),
        ([SENTENCE, 3], "sentences"),
    ],
)
def test_bad_prompts(draw, sentence, message):
    with pytest.raises(ValueError, match=message):
        draw(sentence)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "needs a structure map"),
        (torch.zeros(256, 256), "empty"),
        (torch.ones(128, 128), r"shape \(256, 256\)"),
        (torch.full((256, 256), 0.5), "binary"),
        (torch.full((256, 256), float("nan")), "NaN"),
        (torch.ones(256, 256, dtype=torch.int64), "int64"),
        ("no/such/map.png", "No structure map"),
        (torch.ones(3, 256, 256), "2 prompts, 3 structure maps"),
    ],
)
def test_bad_structures(draw, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        draw([SENTENCE] * 2, given)


def test_one_prompt_serves_many_maps(draw, structure):
    assert draw(given=torch.stack([structure, structure.T, structure.flip(0)])).shape == (3, 256, 256)


def test_the_plain_model_takes_no_structure(pipelines, structure):
    with pytest.raises(ValueError, match="structure=None"):
        pipelines("none")(SENTENCE, structure)
    assert pipelines("none")(SENTENCE).images.shape == (1, 256, 256)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"idh": "unclear"}, "mutant, wild"),
        ({"idh": "wild", "modalities": ["PET"]}, "FLAIR, T1, T1Gd, T2"),
        ({"idh": "wild", "modalities": []}, "sentence or a list"),
    ],
)
def test_bad_words_of_a_sequence(pipelines, structure, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipelines("D").sequence(structure=structure, **arguments)


def test_a_sequence_has_one_structure(pipelines, structure):
    with pytest.raises(ValueError, match="one structure map, got 4"):
        pipelines("D").sequence("wild", structure.expand(4, -1, -1))


@pytest.mark.parametrize(
    ("holds", "claims", "message"),
    [
        ("B", "D", "takes no guidance network"),
        ("D", "B", "needs a guidance network"),
        ("none", "D", "64 structure channels, got 0"),
        ("D", "none", "0 structure channels, got 64"),
        ("C", "B", "guidance network of 64 channels, got 4"),
        ("B", "C", "guidance network of 4 channels, got 64"),
    ],
)
def test_networks_must_make_up_the_variant(holds, claims, message):
    pipe = build(holds)
    with pytest.raises(ValueError, match=message):
        MRPipeline(**pipe.components, variant=claims)
