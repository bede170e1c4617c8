"""Traces against attention computed from hooked Q and K, and everything that must be put back."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from tiny_pipelines import seeded

from mrtutor.sampling.attention import Call, intercepted, layers_of, trace_attention
from mrtutor.vocabulary import Modality

VARIANTS = ("A", "B", "D")


def draw(pipe, sentences, structure, **options):
    return pipe(sentences, structure, generator=seeded(), **options).images


class Hooked:
    """Q and K of one layer, as its projections put them out."""

    def __init__(self, attn):
        self.heads, self.seen = attn.heads, {"q": [], "k": []}
        self.handles = [
            getattr(attn, f"to_{x}").register_forward_hook(lambda *a, x=x: self.seen[x].append(a[2].double()))
            for x in "qk"
        ]

    def mean_map(self, rows):
        """(rows, heads, N, L): mean over steps of the last `rows` rows, by the formula."""
        total = 0.0
        for q, k in zip(self.seen["q"], self.seen["k"], strict=True):
            q, k = (x[-rows:].reshape(rows, x.shape[1], self.heads, -1) for x in (q, k))
            scores = torch.einsum("bnhd,blhd->bhnl", q, k) / q.shape[-1] ** 0.5
            total = total + scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        return total / len(self.seen["q"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_those_of_hooked_queries_and_keys(variant, pipelines, sentences, structure):
    pipe = pipelines(variant)
    with trace_attention(pipe) as trace:
        draw(pipe, sentences, structure)
    hooks = {layer: Hooked(attn) for layer, attn in layers_of(pipe).items()}
    draw(pipe, sentences, structure)
    for layer, hook in hooks.items():
        [handle.remove() for handle in hook.handles]
        ours = trace.maps(layer)
        assert torch.allclose(ours.flatten(2, 3).double(), hook.mean_map(len(sentences)), atol=1e-5), layer
        assert torch.allclose(ours.sum(dim=-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"guidance_interval": (0.4, 0.8)}])
def test_only_the_sentences_half_is_seen(options, pipelines, sentences, structure):
    """Guidance at all steps, at none, at some: the empty prompt's maps never enter."""
    pipe = pipelines("B")
    pipe_rows = []
    with trace_attention(pipe) as trace, intercepted(pipe, lambda _l, maps, _c: pipe_rows.append(len(maps))):
        draw(pipe, sentences, structure, **options)
    hooks = {layer: Hooked(attn) for layer, attn in layers_of(pipe).items()}
    draw(pipe, sentences, structure, **options)
    for layer, hook in hooks.items():
        [handle.remove() for handle in hook.handles]
        assert torch.allclose(trace.maps(layer).flatten(2, 3).double(), hook.mean_map(4), atol=1e-5)
    assert set(pipe_rows) == {4} and trace.steps == 3


@pytest.mark.parametrize("variant", ["A", "B", "C", "D", "none"])
def test_pictures_are_the_same_under_a_trace(variant, pipelines, sentences, structure):
    pipe = pipelines(variant)
    structure = None if variant == "none" else structure
    plain = draw(pipe, sentences, structure)
    with trace_attention(pipe, keep_steps=(0, 2)) as trace:
        traced = draw(pipe, sentences, structure)
    assert torch.equal(plain, traced)
    networks = {layer.network for layer in trace.layers}
    assert networks == ({"unet", "guidance"} if variant in "ABC" else {"unet"})
    assert {layer.place for layer in trace.layers if layer.network == "unet"} == {"down", "middle", "up"}
    expected = sum(
        m.is_cross_attention
        for network in (pipe.unet, pipe.guidance)
        if network is not None
        for m in network.modules()
        if isinstance(m, Attention)
    )
    assert len({str(layer) for layer in trace.layers}) == expected, "a layer was missed, or two share a name"


def state(pipe):
    """All that a trace could leave behind."""
    networks = [n for n in (pipe.unet, pipe.guidance) if n is not None]
    processors = [id(m.processor) for n in networks for m in n.modules() if isinstance(m, Attention)]
    hooks = [(len(n._forward_hooks), len(n._forward_pre_hooks)) for n in networks]
    return processors, hooks, "_embed" in pipe.__dict__


@pytest.mark.parametrize("variant", ["B", "D"])
def test_everything_is_put_back(variant, pipelines, sentences, structure):
    pipe = pipelines(variant)
    before = state(pipe)
    with trace_attention(pipe), trace_attention(pipe):
        assert state(pipe) != before
        draw(pipe, sentences, structure)
    assert state(pipe) == before
    with pytest.raises(KeyError, match="mine"), trace_attention(pipe), trace_attention(pipe):
        raise KeyError("mine")
    assert state(pipe) == before
    with pytest.raises(ValueError, match="structure"), trace_attention(pipe):
        draw(pipe, sentences, None)
    assert state(pipe) == before


def test_nested_traces_agree(pipelines, sentences, structure):
    pipe = pipelines("D")
    with trace_attention(pipe) as outer, trace_attention(pipe) as inner:
        draw(pipe, sentences, structure)
    for layer in inner.layers:
        assert torch.equal(outer.maps(layer), inner.maps(layer))


def test_a_second_picture_starts_anew(pipelines, sentences, structure):
    pipe = pipelines("D")
    with trace_attention(pipe) as trace:
        draw(pipe, sentences, structure)
        draw(pipe, sentences[:1], structure, num_inference_steps=2)
    assert trace.prompts == sentences[:1] and trace.steps == 2
    assert len(trace.maps(trace.layers[0])) == 1


def test_memory_does_not_grow_with_steps(pipelines, sentences, structure):
    pipe, sizes = pipelines("D"), {}
    for steps in (1, 6):
        with trace_attention(pipe) as trace:
            draw(pipe, sentences, structure, num_inference_steps=steps)
        sizes[steps] = trace.nbytes
    assert sizes[1] == sizes[6] > 0
    with trace_attention(pipe, keep_steps=(0, 5)) as trace:
        draw(pipe, sentences, structure, num_inference_steps=6)
    assert trace.nbytes == 3 * sizes[1] and trace.kept_steps == [0, 5]


def test_kept_steps_add_up_to_the_sum(pipelines, sentences, structure):
    pipe = pipelines("B")
    with trace_attention(pipe, keep_steps=range(3)) as trace:
        draw(pipe, sentences, structure)
    for layer in trace.layers:
        each = torch.stack([trace.maps(layer, step) for step in range(3)])
        assert torch.allclose(each.mean(dim=0), trace.maps(layer), atol=1e-6)
        assert not torch.equal(each[0], each[2])


def test_latents_that_are_no_square(pipelines):
    """The U-Net itself on (B, 4, 32, 24): height and width come from the latent."""
    pipe, shapes = pipelines("D"), {}
    with (
        torch.inference_mode(),
        intercepted(pipe, lambda layer, maps, call: shapes.update(grid(layer, maps, call))) as call,
    ):
        call.prompts = ["one", "two"]
        pipe.unet(torch.randn(2, 68, 32, 24), torch.tensor(5), torch.randn(2, 32, pipe.unet.config.cross_attention_dim))
    assert {(16, 12), (8, 6)} == set(shapes.values())


def grid(layer, maps, call):
    return {str(layer): call.grid(maps.shape[2])}


def test_places_at_every_stride():
    call = Call(latent=(45, 30))
    assert [call.grid(n) for n in (45 * 30, 23 * 15, 12 * 8, 6 * 4)] == [(45, 30), (23, 15), (12, 8), (6, 4)]
    with pytest.raises(ValueError, match="at no stride"):
        call.grid(100)


def test_no_layer_is_an_error(pipelines, monkeypatch):
    pipe = pipelines("D")
    for attn in layers_of(pipe).values():
        monkeypatch.setattr(attn, "is_cross_attention", False)
    with pytest.raises(ValueError, match="No cross-attention layer"), trace_attention(pipe):
        pass


def test_a_layer_beyond_the_formula_is_an_error(pipelines, monkeypatch):
    pipe = pipelines("D")
    monkeypatch.setattr(next(iter(layers_of(pipe).values())), "residual_connection", True)
    with pytest.raises(ValueError, match=r"beyond Eq\. 5"), trace_attention(pipe):
        pass


def test_networks_called_past_the_pipeline(pipelines):
    pipe = pipelines("D")
    inputs = torch.randn(1, 68, 32, 32), torch.tensor(5), torch.randn(1, 32, pipe.unet.config.cross_attention_dim)
    with pytest.raises(ValueError, match="draw with the pipeline itself"), trace_attention(pipe):
        pipe.unet(*inputs)


@pytest.mark.parametrize("steps", [(-1,), (1.5,), (True,), ("a",)])
def test_bad_steps_to_keep(steps, pipelines):
    with pytest.raises(ValueError, match="numbers of steps"), trace_attention(pipelines("D"), keep_steps=steps):
        pass


def test_a_sequence_shares_one_trace(pipelines, structure):
    pipe = pipelines("D")
    with trace_attention(pipe) as trace:
        pipe.sequence("wild", structure)
    each = [trace.heat_map("glioma", modality=m, normalise=False) for m in Modality]
    assert torch.allclose(torch.stack(each).mean(dim=0), trace.heat_map("glioma", normalise=False), atol=1e-6)
    assert not torch.equal(each[0], each[3])
