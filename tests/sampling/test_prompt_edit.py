"""Silencing and swapping: identities that change nothing, closed forms, and what must reach the picture."""

import pytest
import torch
from tiny_pipelines import seeded

from mrtutor.sampling.attention import layers_of
from mrtutor.sampling.prompt_edit import maps_from, reweighted
from mrtutor.vocabulary import prompt


def draw(pipe, sentences, structure, **options):
    return pipe(sentences, structure, generator=[seeded() for _ in sentences], **options).images


@pytest.fixture
def pair():
    return [prompt("T1Gd", "wild"), prompt("T1Gd", "mutant")]


@pytest.mark.parametrize("variant", ["B", "D"])
def test_identities_change_nothing(variant, pipelines, pair, structure):
    """Factor 1 and one's own maps go through our attention instead of the library's: equal but for rounding."""
    pipe = pipelines(variant)
    plain = draw(pipe, pair, structure)
    for block in (reweighted(pipe, {"glioma": 1.0}), maps_from(pipe, [0, 1])):
        with block:
            assert torch.allclose(draw(pipe, pair, structure), plain, atol=1e-4)


def test_silence_reaches_the_picture_and_only_there(pipelines, pair, structure):
    pipe = pipelines("D")
    plain = draw(pipe, pair, structure)
    with reweighted(pipe, {"glioma": 0.0}):
        silent = draw(pipe, pair, structure)
    assert not torch.allclose(silent, plain, atol=1e-4)
    assert torch.equal(draw(pipe, pair, structure), plain), "the block is over"


def test_neighbours_have_read_a_silenced_word(pipelines, structure):
    pipe = pipelines("D")
    pictures = []
    for kind in ("wild", "mutant"):
        with reweighted(pipe, {kind: 0.0}):
            pictures.append(draw(pipe, [prompt("T1", kind)], structure))
    assert not torch.allclose(*pictures, atol=1e-5), "the tokens behind it still tell the two apart"


def test_all_but_the_start_silenced_makes_sentences_alike(pipelines, structure):
    """Only <start> is left, which in a causal text encoder has read nothing."""
    pipe = pipelines("D")
    sentences = ["wild glioma", "mutant glioma"]
    pictures = []
    for sentence in sentences:
        kind = sentence.split()[0]
        with reweighted(pipe, {kind: 0.0, "glioma": 0.0, "<end>": 0.0}):
            pictures.append(draw(pipe, [sentence], structure, guidance_scale=1.0))
    assert torch.allclose(*pictures, atol=1e-5)
    assert not torch.allclose(*draw(pipe, sentences, structure), atol=1e-4)


@torch.inference_mode()
def test_factors_by_the_formula(pipelines, pair, structure):
    """One layer's output, from what goes into it."""
    pipe, seen = pipelines("D"), []
    layer = next(iter(layers_of(pipe).values()))
    hook = layer.register_forward_hook(lambda *a: seen.append(a[1:]), with_kwargs=True)
    with reweighted(pipe, {"glioma": 0.5}):
        draw(pipe, pair, structure, num_inference_steps=1, guidance_scale=1.0)
    hook.remove()
    (hidden,), options, output = seen[0]
    text = options["encoder_hidden_states"]
    q, k, v = (
        f(x).reshape(2, x.shape[1], layer.heads, -1)
        for f, x in zip((layer.to_q, layer.to_k, layer.to_v), (hidden, text, text), strict=True)
    )
    maps = (torch.einsum("bnhd,blhd->bhnl", q, k) / q.shape[-1] ** 0.5).softmax(dim=-1)
    for row, sentence in enumerate(pair):
        maps[row, ..., pipe.tokenizer(sentence).input_ids.index(pipe.tokenizer("glioma").input_ids[1])] *= 0.5
    maps = maps / maps.sum(dim=-1, keepdim=True)
    wanted = layer.to_out[0](torch.einsum("bhnl,blhd->bnhd", maps, v).flatten(2))
    assert torch.allclose(output, wanted, atol=1e-5)


def test_swapped_maps_are_used(pipelines, pair, structure):
    """With the other's maps *and* the other's words, a row becomes the other picture."""
    pipe = pipelines("D")
    same = [pair[0], pair[0]]
    with maps_from(pipe, [0, 0]):
        first, second = draw(pipe, same, structure)
        mixed = draw(pipe, pair, structure)
    assert torch.allclose(first, second, atol=1e-5)
    plain = draw(pipe, pair, structure)
    assert torch.allclose(mixed[0], plain[0], atol=1e-4), "the source keeps its own"
    assert not torch.allclose(mixed[1], plain[1], atol=1e-4) and not torch.allclose(mixed[1], plain[0], atol=1e-4)


def test_swap_in_no_step(pipelines, pair, structure):
    pipe = pipelines("D")
    with maps_from(pipe, [0, 0], until=0):
        assert torch.equal(draw(pipe, pair, structure), draw(pipe, pair, structure))


@pytest.mark.parametrize("factors", [{}, {"glioma": -1.0}, {"glioma": float("nan")}])
def test_bad_factors(factors, pipelines):
    with pytest.raises(ValueError, match="factors of 0 or more"), reweighted(pipelines("D"), factors):
        pass


def test_a_word_that_a_sentence_lacks(pipelines, pair, structure):
    pipe = pipelines("D")
    with pytest.raises(ValueError, match="No word 'wild'"), reweighted(pipe, {"wild": 0.0}):
        draw(pipe, pair, structure)


@pytest.mark.parametrize("sources", [[], [2, 0], [-1, 0], ["a", 0]])
def test_bad_sources(sources, pipelines):
    with pytest.raises(ValueError, match="number of a row"), maps_from(pipelines("D"), sources):
        pass


def test_sources_for_another_number_of_prompts(pipelines, pair, structure):
    pipe = pipelines("D")
    with pytest.raises(ValueError, match="2 prompts for 3 sources"), maps_from(pipe, [0, 0, 0]):
        draw(pipe, pair, structure)
