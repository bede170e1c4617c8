"""Cross-attention at work: the maps of every layer, heat maps of words, and changed attention.

A picture drawn under a trace is the same picture, bit for bit: each layer computes its output as always, and its map
once more from its own Q and K, for the rows of the sentences alone (the empty prompt's rows of guidance come first).

Axes: B sentences · N = h·w places of a layer · L tokens · H, W image pixels (256).

Source: Kim et al., WACV 2024, Eq. 1, 5, 6 and Fig. 4; Tang et al., ACL 2023 (DAAM); Hertz et al., ICLR 2023
(prompt-to-prompt).
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mrtutor.data.structure import SIZE
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.vocabulary import Modality, modalities_in

PLACES = {"down_blocks": "down", "mid_block": "middle", "up_blocks": "up"}
START, END = "<start>", "<end>"  # tokens of no word; END is the end token together with the padding behind it


def layers_of(pipe: MRPipeline) -> dict[str, Attention]:
    """Every cross-attention layer by its name, such as "unet up 1.0" or "guidance down 0.1"."""
    found = {}
    for network in ("unet", "guidance"):
        module = getattr(pipe, network)
        for path, part in module.named_modules() if module is not None else ():
            if isinstance(part, Attention) and part.is_cross_attention:
                numbers = re.findall(r"\.(\d+)", path)
                if numbers[-1] == "0":  # the only transformer block, in all our networks
                    numbers.pop()
                found[f"{network} {PLACES[path.split('.')[0]]} {'.'.join(numbers)}"] = part
    return found


def attention_maps(attn: Attention, hidden: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ / √d) of Eq. 5, (B, heads, N, L) float32; every row over L sums to one.

    `hidden` (B, N, channels) is the layer's input, `text` (B, L, width) are the sentences' states, and `mask` (B, 1, L)
    is added before the softmax: 0 for tokens, very negative for padding.
    """
    query, key = _heads(attn, attn.to_q(hidden)), _heads(attn, attn.to_k(text))
    with torch.autocast(hidden.device.type, enabled=False):
        scores = attn.scale * query.float() @ key.float().mT
        if mask is not None:
            scores = scores + mask.float()[:, None]
        return scores.softmax(dim=-1)


def _heads(attn: Attention, x: Tensor) -> Tensor:
    """(B, N, heads · d) -> (B, heads, N, d)."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


@contextmanager
def _intercepted(
    pipe: MRPipeline, begin: Callable[[list[str]], None], see: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Within the block `begin` is told the sentences of each picture, and `see` each layer's maps (B, heads, N, L).

    What `see` returns, if not None, is used in place of the maps. Processors and pipeline are as before afterwards,
    also after an error. Blocks may be nested; where several change the maps, the innermost one's are used.
    """
    layers, encode = layers_of(pipe), pipe.encode
    outer = vars(pipe).get("encode")  # of a block around this one
    before = {name: attn.processor for name, attn in layers.items()}
    count = 0

    def told(sentences: Sequence[str]) -> object:
        nonlocal count
        count = len(sentences) - 1  # the first is the empty prompt of guidance
        begin(list(sentences[1:]))
        return encode(sentences)

    def watched(
        name: str, attn: Attention, hidden: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        output = before[name](attn, hidden, encoder_hidden_states, attention_mask)
        first = len(hidden) - count
        text = encoder_hidden_states[first:]
        mask = None if attention_mask is None else attention_mask[first:]
        changed = see(name, attention_maps(attn, hidden[first:], text, mask))
        if changed is None:
            return output
        value = _heads(attn, attn.to_v(text))
        mixed = (changed.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return torch.cat([output[:first], attn.to_out[0](mixed).to(output.dtype)])

    try:
        vars(pipe)["encode"] = told
        for name, attn in layers.items():
            attn.set_processor(partial(watched, name))
        yield
    finally:
        for name, attn in layers.items():
            attn.set_processor(before[name])
        del vars(pipe)["encode"]
        if outer is not None:
            vars(pipe)["encode"] = outer


def words_of(tokenizer: PreTrainedTokenizerBase, sentence: str) -> list[tuple[str, list[int]]]:
    """`START`, the words without punctuation, and `END`, with the positions of their tokens."""
    spans = tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
    words = [(START, [0])]
    for match in re.finditer(r"[^\s,;:.!?()\"]+", sentence):
        inside = [i for i, (first, last) in enumerate(spans) if first < match.end() and last > match.start()]
        words.append((match.group(), inside))
    return [*words, (END, list(range(len(spans) - 1, tokenizer.model_max_length)))]


def _tokens(words: list[tuple[str, list[int]]], wanted: str) -> list[int]:
    """Tokens of a word, in any case, of each place it occurs in; empty if there is no such word."""
    return [token for text, tokens in words if text.lower() == wanted.lower() for token in tokens]


class Trace:
    """Attention of one call of the pipeline, summed over its steps; `prompts` are its B sentences."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keep_steps: Sequence[int] = ()) -> None:
        self.tokenizer, self._keep = tokenizer, {None, *keep_steps}
        self.begin([])

    def begin(self, prompts: list[str]) -> None:
        """Forget an earlier call."""
        self.prompts = prompts
        self._counts: Counter[str] = Counter()  # steps that a layer has seen
        self._sums: dict[int | None, dict[str, Tensor]] = {}  # step, or None for all -> layer -> (B, heads, h, w, L)

    def see(self, layer: str, maps: Tensor) -> None:
        """Add a layer's maps (B, heads, N, L) of its next step."""
        side = math.isqrt(maps.shape[2])  # the pipeline's latents are square
        maps = maps.unflatten(2, (side, side))
        for step in {None, self._counts[layer]} & self._keep:
            sums = self._sums.setdefault(step, {})
            sums[layer] = sums[layer].add_(maps) if layer in sums else maps.clone()
        self._counts[layer] += 1

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order in which they compute."""
        return list(self._counts)

    @property
    def steps(self) -> int:
        """Steps that were seen."""
        return max(self._counts.values(), default=0)

    @property
    def kept_steps(self) -> list[int]:
        """Steps that can be asked for."""
        return sorted(step for step in self._sums if step is not None)

    def words(self, row: int = 0) -> list[str]:
        """Words of a sentence that heat maps can be asked for."""
        return [word for word, _ in words_of(self.tokenizer, self.prompts[row])]

    def row_of(self, modality: Modality | str) -> int:
        """Number of the first sentence that names a modality (ValueError: none does)."""
        for row, prompt in enumerate(self.prompts):
            if Modality(modality) in modalities_in(prompt):
                return row
        raise ValueError(f"No sentence names {modality}: expected a modality of {'; '.join(self.prompts) or 'none'}.")

    def maps(self, layer: str, step: int | None = None) -> Tensor:
        """Eq. 5 in one layer, (B, heads, h, w, L): the mean over the steps, or one kept step's; sums to one over L."""
        if step not in self._sums:
            raise ValueError(f"Step {step!r} was not kept, but {self.kept_steps}: name it in keep_steps=(…).")
        return self._sums[step][layer] / (self._counts[layer] if step is None else 1)

    def heat_map(
        self,
        word: str,
        *,
        modality: Modality | str | None = None,
        row: int | None = None,
        layer: str | None = None,
        step: int | None = None,
        head: int | None = None,
        normalise: bool = True,
    ) -> Tensor:
        """Eq. 6: maps of a word's tokens, averaged over layers, steps and heads, (256, 256) float32 in [0, 1].

        Small maps are enlarged linearly. The paper sums down and up layers; here the middle ones are in it as well.

        Args:
            word: a word of the sentence, "<start>" or "<end>".
            modality: only the sentence that names it; default the mean over all sentences that have the word.
            row: only the sentence of this number.
            layer: one layer, by its name, or all of "down", "middle", "up", "unet" or "guidance".
            step: one step of those kept.
            head: one head, from 0.
            normalise: divide by the largest value. Otherwise the word's share of the attention, which over all tokens
                of a sentence, punctuation included, sums to one in each pixel.

        ValueError: nothing drawn yet; a word, modality, layer or step that is not there.
        """
        if not self.layers:
            raise ValueError("Nothing was traced: call the pipeline inside the `with trace_attention(…)` block.")
        names = [name for name in self.layers if layer in (None, name, *name.split()[:2])]
        if not names:
            raise ValueError(f"No layer {layer!r}: expected down, middle, up, unet, guidance or one of {self.layers}.")
        tokens = self._places(word, row if modality is None else self.row_of(modality))
        total, count = 0.0, 0
        for name in names:
            maps = self.maps(name, step)
            maps = torch.stack([maps[n][..., places].sum(dim=-1) for n, places in tokens.items()])
            if head is not None:
                maps = maps[:, [head]]
            count += maps.shape[0] * maps.shape[1]  # (rows, heads, h, w)
            small = maps.sum(dim=(0, 1))[None, None]  # upsampling is linear: sum first, upsample once
            total = total + F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
        mean = total / count
        return mean / mean.max().clamp(min=1e-12) if normalise else mean

    def _places(self, word: str, row: int | None) -> dict[int, list[int]]:
        """Numbers of the sentences that are meant and have the word -> positions of its tokens."""
        rows = range(len(self.prompts)) if row is None else [row]
        found = {n: _tokens(words_of(self.tokenizer, self.prompts[n]), word) for n in rows}
        found = {n: tokens for n, tokens in found.items() if tokens}
        if not found:
            raise ValueError(f"No word {word!r} in the sentence: expected one of {', '.join(self.words(rows[0]))}.")
        return found


@contextmanager
def trace_attention(pipe: MRPipeline, keep_steps: Sequence[int] = ()) -> Iterator[Trace]:
    """Within the block, sum up where the words of each sentence are looked for.

        with trace_attention(pipe) as trace:
            sequence = pipe.sequence("wild", structure)
        trace.heat_map("glioma")  # (256, 256) in [0, 1]

    Only sums over the steps are stored, so memory does not grow with their number. A further call of the pipeline in
    the block starts anew.

    Args:
        keep_steps: numbers of steps, from 0, whose own maps are stored as well; each costs as much as the sums.
    """
    trace = Trace(pipe.tokenizer, keep_steps)
    with _intercepted(pipe, trace.begin, trace.see):
        yield trace


@contextmanager
def reweighted(pipe: MRPipeline, factors: Mapping[str, float]) -> Iterator[None]:
    """Within the block, words are listened to more or less (attention re-weighting); the maps still sum to one.

    Factor 0 silences a word. The text encoder has already told its neighbours, though: with a causal encoder every
    token behind the word has read it. ``{"glioma": 0, "<end>": 0}`` silences those as well. Drawing a sentence that
    lacks the word is a ValueError.
    """
    weights = torch.empty(0)

    def begin(prompts: list[str]) -> None:
        nonlocal weights
        weights = torch.ones(len(prompts), pipe.tokenizer.model_max_length, device=pipe.device)
        for row, prompt in zip(weights, prompts, strict=True):
            words = words_of(pipe.tokenizer, prompt)
            for word, factor in factors.items():
                tokens = _tokens(words, word)
                if not tokens:
                    raise ValueError(f"No word {word!r} in {prompt!r}: expected words that every sentence has.")
                row[tokens] *= factor

    def see(_layer: str, maps: Tensor) -> Tensor:
        weighted = maps * weights[:, None, None]
        return weighted / weighted.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    with _intercepted(pipe, begin, see):
        yield


@contextmanager
def maps_from(pipe: MRPipeline, sources: Sequence[int]) -> Iterator[None]:
    """Within the block, row i takes the attention maps of row ``sources[i]`` and keeps its own values V.

    Prompt-to-prompt: *what* is drawn comes from a row's own words, *where*, as far as attention decides it, from the
    source. ``[0, 0]`` gives the second prompt the first one's maps. The sentences need the same words in the same
    positions but for the swapped one; a ValueError where prompts and sources are not equally many.
    """

    def begin(prompts: list[str]) -> None:
        if len(sources) != len(prompts):
            raise ValueError(f"Got {len(prompts)} prompts for {len(sources)} sources: expected one for each.")

    with _intercepted(pipe, begin, lambda _layer, maps: maps[list(sources)]):
        yield
