"""Traces against attention computed from hooked Q and K, heat maps against sums written out, changed attention."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from mrtutor.models.text import build_tokenizer
from mrtutor.pipeline.attention import END, START, Trace, layers_of, maps_from, reweighted, trace_attention, words_of
from mrtutor.vocabulary import sentence
from tests.models.tiny_pipelines import build

LENGTH = 32
PAIR = [sentence("T1Gd", "wild"), sentence("T1Gd", "mutant")]
UP, DOWN = "unet up 0.0", "guidance down 1.0"


@cache
def pipe_of(variant, mask_padding=True):
    return build(variant, steps=2, mask_padding=mask_padding)


def draw(pipe, sentences=PAIR, **options):
    structure = torch.zeros(256, 256)
    structure[60:200, 60] = 1
    generators = [torch.Generator().manual_seed(0) for _ in sentences]
    return pipe(sentences, structure if pipe.method.takes_structure else None, generator=generators, **options).images


def hooked_maps(pipe, **options):
    """Layer -> (rows, heads, N, L), the mean over steps by the formula, from Q, K and the sentences' lengths."""
    seen, hooks = {}, []
    for name, attn in layers_of(pipe).items():
        for x in "qk":
            seen[name, x] = []
            keep = lambda *a, to=seen[name, x]: to.append(a[2][-len(PAIR) :].double())  # noqa: E731
            hooks.append(getattr(attn, f"to_{x}").register_forward_hook(keep))
    draw(pipe, **options)
    [hook.remove() for hook in hooks]
    real = torch.ones(len(PAIR), pipe.tokenizer.model_max_length, dtype=torch.bool)
    for row, text in zip(real, PAIR, strict=True):
        row[len(pipe.tokenizer(text).input_ids) :] = not pipe.config.mask_padding
    found = {}
    for name, attn in layers_of(pipe).items():
        q, k = (torch.stack(seen[name, x]).unflatten(-1, (attn.heads, -1)) for x in "qk")
        scores = torch.einsum("sbnhd,sblhd->sbhnl", q, k) / q.shape[-1] ** 0.5
        found[name] = scores.masked_fill(~real[:, None, None], -torch.inf).softmax(dim=-1).mean(dim=0)
    return found


CASES = [("paper", True, {}), ("D", False, {}), ("D", True, {"guidance_interval": (0.6, 1.0)})]


@pytest.mark.parametrize(("variant", "masked", "options"), CASES)
def test_maps_are_those_of_queries_and_keys_and_the_picture_stays(variant, masked, options):
    pipe = pipe_of(variant, masked)
    plain = draw(pipe, **options)
    with trace_attention(pipe, keep_steps=(0,)) as trace:
        assert torch.equal(draw(pipe, **options), plain)
    wanted = hooked_maps(pipe, **options)
    assert set(trace.layers) == set(wanted) and trace.steps == 2 and trace.kept_steps == [0]
    assert {name.split()[0] for name in wanted} == ({"unet", "guidance"} if variant == "paper" else {"unet"})
    for name, maps in wanted.items():
        assert torch.allclose(trace.maps(name).flatten(2, 3).double(), maps, atol=1e-5), name
    assert bool((trace.maps(UP)[..., 20:] == 0).all()) == masked, "attention on the padding"
    assert not torch.equal(trace.maps(UP, 0), trace.maps(UP))


def test_everything_is_put_back():
    pipe = pipe_of("paper")
    before = [attn.processor for attn in layers_of(pipe).values()]
    with trace_attention(pipe) as outer, trace_attention(pipe) as inner:
        draw(pipe)
        draw(pipe, PAIR[:1], num_inference_steps=4)  # starts anew; sums alone are stored
    assert inner.prompts == PAIR[:1] and inner.steps == 4 and inner.kept_steps == [] and len(inner.maps(UP)) == 1
    assert torch.equal(outer.maps(UP), inner.maps(UP))
    with pytest.raises(ValueError, match=r"structure|edge map"), trace_attention(pipe), trace_attention(pipe):
        pipe(PAIR, None)
    assert [attn.processor for attn in layers_of(pipe).values()] == before and "encode" not in vars(pipe)


def test_words_and_their_tokens():
    tokens = dict(words_of(build_tokenizer(LENGTH), PAIR[0]))
    assert list(tokens) == [START, *PAIR[0].replace(",", "").split(), END]
    assert tokens["T1Gd"] == [2, 3, 4] and tokens["type"] == [9], "three tokens; the comma is no word"
    assert tokens[END] == list(range(14, LENGTH))


def filled():
    """A trace of two sentences, two layers and three steps, and the maps that went in."""
    trace, seen = Trace(build_tokenizer(LENGTH), [1]), []
    trace.begin(["T1Gd, wild glioma", "FLAIR glioma"])
    for step in range(3):
        for layer, side in ((DOWN, 4), (UP, 8)):
            maps = torch.rand(2, 2, side**2, LENGTH).softmax(dim=-1)
            seen.append((layer, step, maps))
            trace.see(layer, maps)
    return trace, seen


def equation_6(seen, row, tokens, keep=lambda *_: True):
    """Eq. 6 written out, mean instead of sum."""
    parts = []
    for layer, step, maps in seen:
        for head in [head for head in range(2) if keep(layer, step, head)]:
            side = 4 if layer == DOWN else 8
            one = maps[row, head][:, tokens].sum(dim=-1).reshape(1, 1, side, side)
            parts.append(F.interpolate(one, (256, 256), mode="bilinear")[0, 0])
    return torch.stack(parts).mean(dim=0)


CHOICES = [
    ({}, lambda *_: True),
    ({"layer": "up"}, lambda layer, *_: layer == UP),
    ({"layer": "guidance"}, lambda layer, *_: layer == DOWN),
    ({"step": 1, "head": 0, "layer": DOWN}, lambda layer, step, head: (layer, step, head) == (DOWN, 1, 0)),
]


@pytest.mark.parametrize(("options", "keep"), CHOICES)
def test_heat_map_is_equation_6(options, keep):
    trace, seen = filled()
    wanted = equation_6(seen, 0, (1, 2, 3), keep)
    assert torch.allclose(trace.heat_map("t1gd", normalise=False, **options), wanted, atol=1e-6)
    assert torch.allclose(trace.heat_map("T1Gd", **options), wanted / wanted.max(), atol=1e-5)


def test_sentences_with_the_word_are_averaged():
    trace, seen = filled()
    both = (equation_6(seen, 0, (6,)) + equation_6(seen, 1, (2,))) / 2
    assert torch.allclose(trace.heat_map("glioma", normalise=False), both, atol=1e-6)
    assert torch.equal(trace.heat_map("glioma", row=1), trace.heat_map("glioma", modality="FLAIR"))
    total = sum(trace.heat_map(word, row=1, normalise=False) for word in trace.words(1))
    assert torch.allclose(total, torch.ones(256, 256), atol=1e-5), "no punctuation here: the words are all tokens"


@pytest.mark.parametrize("variant", ["paper", "D"])
def test_changes_that_change_nothing_and_some_that_do(variant):
    pipe = pipe_of(variant)
    plain = draw(pipe)
    for block in (reweighted(pipe, {"glioma": 1.0}), maps_from(pipe, [0, 1])):
        with block:  # our attention in place of the library's: equal but for rounding
            assert torch.allclose(draw(pipe), plain, atol=1e-4)
    with reweighted(pipe, {"glioma": 0.0}):
        assert not torch.allclose(draw(pipe), plain, atol=1e-4)
    with maps_from(pipe, [0, 0]):
        mixed = draw(pipe)
    assert torch.allclose(mixed[0], plain[0], atol=1e-4), "the source keeps its own"
    assert not torch.allclose(mixed[1], plain[1], atol=1e-4) and not torch.allclose(mixed[1], plain[0], atol=1e-4)
    assert torch.equal(draw(pipe), plain), "the blocks are over"


def test_silenced_words_give_nothing():
    pipe, seen = pipe_of("D", False), []
    attn = layers_of(pipe)[UP]
    hooks = [attn.to_v.register_forward_hook(lambda *a: seen.append(a[2]))]
    hooks.append(attn.to_out[0].register_forward_hook(lambda *a: seen.append(a[1][0])))
    with reweighted(pipe, dict.fromkeys(("Wild", "glioma", END), 0)):
        draw(pipe, ["wild glioma"], num_inference_steps=1, guidance_scale=1.0)
    [hook.remove() for hook in hooks]
    value, mixed = seen[-2:]
    assert torch.allclose(mixed, value[:, :1].expand_as(mixed), atol=1e-5), "the start token alone is left"


def test_mistakes():
    for wrong in ({"word": "wild", "modality": "FLAIR"}, {"modality": "T2"}, {"layer": "side"}, {"step": 2}):
        with pytest.raises(ValueError, match=r"expected|keep_steps"):
            filled()[0].heat_map(**{"word": "glioma", **wrong})
    pipe = pipe_of("D")
    with pytest.raises(ValueError, match="for each"), maps_from(pipe, [0, 0, 0]):
        draw(pipe)
    with pytest.raises(ValueError, match="No word"), reweighted(pipe, {"wild": 0.0}):
        draw(pipe)
    with trace_attention(pipe) as trace, pytest.raises(ValueError, match="Nothing was traced"):
        trace.heat_map("glioma")
