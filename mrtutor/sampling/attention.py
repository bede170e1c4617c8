"""Cross-attention at work: every layer's maps, seen during real sampling and summed up as they come.

A layer's own processor computes the layer's output as always, so that a picture drawn under a trace is the same
picture. Beside it the map of Eq. 5 is computed once more from the layer's own Q and K, for the rows of the sentences:
the pipeline puts the empty prompt's half of classifier-free guidance first, and nobody asks what *that* looks at.

Axes: B prompts · N = h·w places of a layer · L tokens · C channels · H, W image pixels.

Source: Kim et al., WACV 2024, Eq. 5 and 6; Tang et al., ACL 2023 (DAAM).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import ceil

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from mrtutor.models.autoencoder import unshuffle_factor
from mrtutor.sampling.cross_attention import Layer, attend, attention_maps, layers_of
from mrtutor.sampling.heat_maps import Trace
from mrtutor.sampling.pipeline import MRPipeline

__all__ = ["Layer", "Trace", "attention_maps", "intercepted", "layers_of", "trace_attention"]

STRIDES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Call:
    """What a layer cannot know of the pipeline's call in progress.

    Attributes:
        prompts: B sentences.
        latent: (h, w) of the latents.
        step: calls of the U-Net that are over.
    """

    prompts: list[str] = field(default_factory=list)
    latent: tuple[int, int] = (0, 0)
    step: int = 0

    def conditional(self, rows: int) -> slice:
        """The sentences' rows among `rows`: all, or the last half where guidance acts.

        Raises:
            ValueError: a batch that the pipeline does not make.
        """
        batch = len(self.prompts)
        if batch == 0 or rows not in (batch, 2 * batch):
            raise ValueError(
                f"Expected {batch} rows, or {2 * batch} with guidance, got {rows}: draw with the pipeline itself, "
                "`pipeline(...)` or `pipeline.sequence(...)`, inside the block."
            )
        return slice(rows - batch, rows)

    def grid(self, places: int) -> tuple[int, int]:
        """(h, w) of a layer with N = `places`: the latent's, divided by the layer's stride and rounded up.

        Raises:
            ValueError: no stride gives as many places.
        """
        for stride in STRIDES:
            height, width = (ceil(side / stride) for side in self.latent)
            if height * width == places:
                return height, width
        raise ValueError(f"{places} places fit latents of {self.latent} at no stride of {STRIDES}: not an image layer.")


See = Callable[[Layer, Tensor, Call], Tensor | None]  # maps (B, heads, N, L) -> other maps to be used, or None


class _Watched:
    """A layer's own processor, whose maps are shown to `see`."""

    def __init__(self, inner: object, layer: Layer, call: Call, see: See) -> None:
        self.inner, self.layer, self.call, self.see = inner, layer, call, see

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None or attention_mask is not None:
            raise ValueError(f"Layer {self.layer} was called without text or with a mask: its maps are not Eq. 5.")
        output = self.inner(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, temb=temb)
        rows = self.call.conditional(len(hidden_states))
        text = encoder_hidden_states[rows]
        changed = self.see(self.layer, attention_maps(attn, hidden_states[rows], text), self.call)
        if changed is None:
            return output
        return torch.cat([output[: rows.start], attend(attn, changed, text).to(output.dtype)])


@contextmanager
def intercepted(pipeline: MRPipeline, see: See, begin: Callable[[Call], None] | None = None) -> Iterator[Call]:
    """Within the block `see` is shown each layer's maps of the sentences, and may return others to be used instead.

    Processors, hooks and the pipeline are as before afterwards, also after an error. Blocks may be nested: each
    sees the maps that the layer's own Q and K give, and where several change them the innermost one has its way.

    Args:
        begin: called when the pipeline starts a picture.

    Raises:
        ValueError: as `layers_of`.
    """
    layers, call = layers_of(pipeline), Call()

    def started(prompts: Sequence[str]) -> None:
        call.prompts, call.step = list(prompts), 0
        if begin is not None:
            begin(call)

    def entered(_network: nn.Module, args: tuple, options: dict) -> None:
        call.latent = tuple((args[0] if args else options["sample"]).shape[-2:])

    def left(*_: object) -> None:
        call.step += 1

    with ExitStack() as undo:
        undo.enter_context(_told_of_prompts(pipeline, started))
        for network in {layer.network for layer in layers} | {"unet"}:
            undo.callback(getattr(pipeline, network).register_forward_pre_hook(entered, with_kwargs=True).remove)
        undo.callback(pipeline.unet.register_forward_hook(left).remove)  # the guidance network runs before it
        for layer, attn in layers.items():
            undo.callback(attn.set_processor, attn.processor)
            attn.set_processor(_Watched(attn.processor, layer, call, see))
        yield call


@contextmanager
def _told_of_prompts(pipeline: MRPipeline, started: Callable[[Sequence[str]], None]) -> Iterator[None]:
    """Within the block `started` is told the sentences of each call of the pipeline, before it embeds them."""
    embed, nested = pipeline._embed, "_embed" in vars(pipeline)

    def told(prompts: list[str]) -> Tensor:
        started(prompts)
        return embed(prompts)

    vars(pipeline)["_embed"] = told
    try:
        yield
    finally:
        if nested:
            vars(pipeline)["_embed"] = embed
        else:
            del vars(pipeline)["_embed"]


@contextmanager
def trace_attention(pipeline: MRPipeline, keep_steps: Sequence[int] = ()) -> Iterator[Trace]:
    """Within the block, sum up where the words of each sentence are looked for.

        with trace_attention(pipe) as trace:
            sequence = pipe.sequence("wild", structure)
        trace.heat_map("glioma")  # (256, 256) in [0, 1]

    Only sums over the steps are stored, so memory does not grow with their number. A further call of the pipeline in
    the block starts anew.

    Args:
        keep_steps: numbers of steps, from 0, whose own maps are stored as well; each costs as much as the sums.

    Raises:
        ValueError: as `layers_of`; numbers that are no steps.
    """
    if any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in keep_steps):
        raise ValueError(f"Expected numbers of steps from 0 as keep_steps, got {list(keep_steps)!r}: try (0, 5, 10).")
    factor = unshuffle_factor(pipeline.autoencoder) * 2 ** (len(pipeline.autoencoder.config.block_out_channels) - 1)
    trace = Trace(
        pipeline.tokenizer, pipeline.text_encoder.config.max_position_embeddings, factor, frozenset(keep_steps)
    )
    with intercepted(pipeline, trace.see, trace.begin):
        yield trace
