"""Taking a word's attention away, or giving a picture the attention of another: does the map *cause* anything?

Only the conditional half of guidance is changed, in every cross-attention layer of U-Net and guidance network.

Axes: B prompts · N places of a layer · L tokens.

Source: Hertz et al., *Prompt-to-Prompt Image Editing with Cross-Attention Control*, ICLR 2023, §3.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from mrtutor.sampling.attention import Call, intercepted
from mrtutor.sampling.cross_attention import Layer
from mrtutor.sampling.heat_maps import find_word, words_of
from mrtutor.sampling.pipeline import MRPipeline


@contextmanager
def reweighted(pipeline: MRPipeline, factors: Mapping[str, float]) -> Iterator[None]:
    """Within the block, words are listened to more or less (attention re-weighting); the maps still sum to one.

    Factor 0 silences a word. Mind that a causal text encoder has already told its neighbours: every token behind the
    word, the padding included, has read it. ``{"glioma": 0, "<end>": 0}`` silences those as well.

    Args:
        factors: word -> factor ≥ 0 on its attention; see `mrtutor.sampling.heat_maps.find_word` for words.

    Raises:
        ValueError: no factor or a negative one; a word that a sentence lacks (when drawing).
    """
    if not factors or not all(math.isfinite(f) and f >= 0 for f in factors.values()):
        raise ValueError(f"Expected words with factors of 0 or more, got {dict(factors)!r}: 0 silences a word.")
    length = pipeline.text_encoder.config.max_position_embeddings
    positions: list[dict[str, tuple[int, ...]]] = []

    def begin(call: Call) -> None:
        sentences = [words_of(pipeline.tokenizer, sentence, length) for sentence in call.prompts]
        positions[:] = [{word: find_word(words, word) for word in factors} for words in sentences]

    def see(_layer: Layer, maps: Tensor, _call: Call) -> Tensor:
        weighted = maps.clone()
        for row, tokens in zip(weighted, positions, strict=True):
            for word, factor in factors.items():
                row[..., list(tokens[word])] *= factor
        return weighted / weighted.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    with intercepted(pipeline, see, begin):
        yield


@contextmanager
def maps_from(pipeline: MRPipeline, sources: Sequence[int], until: int | None = None) -> Iterator[None]:
    """Within the block, each sentence speaks its own words into another sentence's places (prompt-to-prompt swap).

    Row i takes the maps of row ``sources[i]`` and keeps its own values V. So *what* is drawn comes from its own
    words, and *where*, as far as attention decides it, from the source's. The sentences need the same words in the
    same positions but for the swapped one.

    Args:
        sources: a row number for each of the B prompts; ``[0, 0]`` gives the second prompt the first one's maps.
        until: in the first steps only; None for all.

    Raises:
        ValueError: no row numbers; as many prompts as sources are needed, from whose range they are (when drawing).
    """
    chosen = list(sources)
    if not chosen or not all(isinstance(s, int) and 0 <= s < len(chosen) for s in chosen):
        raise ValueError(f"Expected for each prompt the number of a row from 0, got {chosen!r}: try [0, 0] for two.")

    def begin(call: Call) -> None:
        if len(call.prompts) != len(chosen):
            raise ValueError(f"Got {len(call.prompts)} prompts for {len(chosen)} sources: expected one for each.")

    def see(_layer: Layer, maps: Tensor, call: Call) -> Tensor | None:
        return maps[chosen] if until is None or call.step < until else None

    with intercepted(pipeline, see, begin):
        yield
