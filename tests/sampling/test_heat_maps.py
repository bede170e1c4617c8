"""Words and Eq. 6, against sums written out and against traces filled by hand."""

import pytest
import torch
import torch.nn.functional as F

from mrtutor.models.text import build_tokenizer
from mrtutor.sampling.attention import Call, Layer, trace_attention
from mrtutor.sampling.heat_maps import END, START, Trace, find_word, words_of

LENGTH = 32
SENTENCE = "A T1Gd modality MR image, type of IDH wild glioma"
UP, DOWN = (
    Layer("unet", "up_blocks.0.attentions.0.t.0.attn2"),
    Layer("guidance", "down_blocks.1.attentions.0.t.0.attn2"),
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def places(tokenizer, sentence):
    return {w.text: w.tokens for w in words_of(tokenizer, sentence, LENGTH)}


def test_tokens_of_each_word(tokenizer):
    found = places(tokenizer, SENTENCE)
    assert list(found) == [START, *SENTENCE.replace(",", "").split(), END]
    assert found["T1Gd"] == (2, 3, 4), "three tokens: t, 1, gd"
    assert found["modality"] == (5,) and found["image"] == (7,)
    assert found["type"] == (9,), "the comma is a token, and no word"
    assert found[START] == (0,) and found[END] == tuple(range(14, LENGTH))


def test_tokens_spell_the_word(tokenizer):
    for sentence in (SENTENCE, "  IDH-mutant   glioma; T1C+ (zorbik)  ", "mutant"):
        ids = tokenizer(sentence).input_ids
        for word in words_of(tokenizer, sentence, LENGTH)[1:-1]:
            pieces = "".join(tokenizer.convert_ids_to_tokens([ids[t] for t in word.tokens]))
            assert pieces.replace("</w>", "") == word.text.lower()


def test_repeated_words_and_phrases(tokenizer):
    words = words_of(tokenizer, "glioma of wild glioma, a wild", LENGTH)
    assert find_word(words, "GLIOMA") == (1, 4)
    assert find_word(words, "glioma", occurrence=1) == (4,)
    assert find_word(words, "wild glioma") == (3, 4)
    with pytest.raises(ValueError, match="2 time"):
        find_word(words, "glioma", occurrence=2)


@pytest.mark.parametrize("wanted", ["tumour", "gliom", "", ",", "glioma wild", 3])
def test_absent_word_lists_the_words(wanted, tokenizer):
    with pytest.raises(ValueError, match="expected one of <start>, A, T1Gd, modality"):
        find_word(words_of(tokenizer, SENTENCE, LENGTH), wanted)


def filled(tokenizer, steps=3, heads=2, keep=()):
    """A trace of two sentences and two layers, and the maps that went in."""
    trace = Trace(tokenizer, LENGTH, 8, frozenset(keep))
    call = Call(["T1Gd, wild glioma", "FLAIR glioma"], (8, 4))
    trace.begin(call)
    draw, seen = torch.Generator().manual_seed(0), []
    for call.step in range(steps):
        for layer, stride in ((DOWN, 2), (UP, 1)):
            maps = torch.rand(2, heads, 32 // stride**2, LENGTH, generator=draw).softmax(dim=-1)
            seen.append((layer, call.step, maps))
            trace.see(layer, maps, call)
    return trace, seen


def equation_6(seen, row, tokens, keep=lambda *_: True):
    """Eq. 6 written out, mean instead of sum."""
    parts = []
    for layer, step, maps in seen:
        for head in range(maps.shape[1]):
            if keep(layer, step, head):
                shape = (4, 2) if layer is DOWN else (8, 4)
                one = sum(maps[row, head, :, t] for t in tokens).reshape(1, 1, *shape)
                parts.append(F.interpolate(one, (64, 32), mode="bilinear")[0, 0])
    return torch.stack(parts).mean(dim=0)


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({}, lambda *_: True),
        ({"layer": "up"}, lambda layer, *_: layer is UP),
        ({"layer": "unet up 0.0"}, lambda layer, *_: layer is UP),
        ({"layer": DOWN}, lambda layer, *_: layer is DOWN),
        ({"network": "guidance"}, lambda layer, *_: layer is DOWN),
        ({"step": 1}, lambda _, step, __: step == 1),
        ({"head": 1}, lambda _, __, head: head == 1),
        ({"step": 2, "head": 0, "layer": "down"}, lambda layer, step, head: (layer, step, head) == (DOWN, 2, 0)),
    ],
)
def test_heat_map_is_equation_6(options, keep, tokenizer):
    trace, seen = filled(tokenizer, keep=(1, 2))
    ours = trace.heat_map("T1Gd", normalise=False, **options)
    wanted = equation_6(seen, 0, (1, 2, 3), keep)
    assert ours.shape == (64, 32) and torch.allclose(ours, wanted, atol=1e-6)
    assert torch.allclose(trace.heat_map("T1Gd", **options), wanted / wanted.max(), atol=1e-5)


def test_sentences_with_the_word_are_averaged(tokenizer):
    trace, seen = filled(tokenizer)
    both = (equation_6(seen, 0, (6,)) + equation_6(seen, 1, (2,))) / 2
    assert torch.allclose(trace.heat_map("glioma", normalise=False), both, atol=1e-6)
    assert torch.allclose(
        trace.heat_map("glioma", modality="FLAIR", normalise=False), equation_6(seen, 1, (2,)), atol=1e-6
    )
    assert torch.equal(trace.heat_map("glioma", row=1), trace.heat_map("glioma", modality="FLAIR"))
    assert torch.equal(trace.heat_map("wild"), trace.heat_map("wild", row=0)), "only the first sentence has it"


def test_all_tokens_sum_to_one(tokenizer):
    trace, _ = filled(tokenizer)
    total = sum(trace.heat_map(w, row=1, normalise=False) for w in trace.words(1))
    assert torch.allclose(total, torch.ones(64, 32), atol=1e-5), "no punctuation here: the words are all tokens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word": "tumour"}, "No word 'tumour'.*wild, glioma"),
        ({"word": "wild", "modality": "FLAIR"}, "No word 'wild'"),
        ({"word": "glioma", "modality": "T2"}, "No sentence names T2"),
        ({"word": "glioma", "modality": "CT"}, "Unknown modality"),
        ({"word": "glioma", "row": 2}, "expected 0 to 1"),
        ({"word": "glioma", "layer": "sideways"}, "expected down, middle, up or one of guidance down 1.0, unet up"),
        ({"word": "glioma", "network": "unet", "layer": DOWN}, "No layer"),
        ({"word": "glioma", "step": 2}, r"was not kept \(1 of 3\)"),
        ({"word": "glioma", "head": 2}, "expected 0 to 1"),
        ({"word": "glioma", "occurrence": 1}, "1 time"),
    ],
)
def test_what_is_not_there(options, message, tokenizer):
    trace, _ = filled(tokenizer, keep=(1,))
    with pytest.raises(ValueError, match=message):
        trace.heat_map(**options)


def test_nothing_drawn(pipelines):
    with trace_attention(pipelines("D")) as trace:
        pass
    for ask in (lambda: trace.heat_map("glioma"), trace.words, lambda: trace.maps("up")):
        with pytest.raises(ValueError, match="Nothing was traced"):
            ask()
