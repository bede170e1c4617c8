"""From attention maps to words: which tokens are a word, and Eq. 6, the heat map of a word.

Axes: B prompts · h, w places of a layer · L tokens · H, W image pixels.

Source: Kim et al., WACV 2024, Eq. 6 and Fig. 4; Tang et al., ACL 2023 (DAAM).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer

from mrtutor.vocabulary import Modality, modalities_in

if TYPE_CHECKING:
    from mrtutor.sampling.attention import Call
    from mrtutor.sampling.cross_attention import Layer

_WORD = r"[^\s,;:.!?()\"]+"
START, END = "<start>", "<end>"  # tokens that stand in no sentence; END with the padding behind it


@dataclass(frozen=True)
class Word:
    """A word of a sentence and the positions of its tokens among the L."""

    text: str
    tokens: tuple[int, ...]


def words_of(tokenizer: CLIPTokenizer, sentence: str, length: int) -> list[Word]:
    """Words in order, without punctuation; before them `START`, behind them `END` with all padding.

    Args:
        length: L, to which the pipeline pads.
    """
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    words = [Word(START, (0,))]
    for match in re.finditer(_WORD, sentence):
        inside = [i for i, (a, b) in enumerate(spans) if a < match.end() and b > match.start()]
        words.append(Word(match.group(), tuple(inside)))
    return [*words, Word(END, tuple(range(len(spans) - 1, length)))]


def find_word(words: Sequence[Word], wanted: str, occurrence: int | None = None) -> tuple[int, ...]:
    """Tokens of a word, or of several that stand side by side, in any case.

    Args:
        wanted: such as "glioma", "T1Gd" or "wild glioma".
        occurrence: which one, from 0, of a word that stands there more than once; None for all of them together.

    Raises:
        ValueError: no such word, which lists those there are; fewer occurrences.
    """
    parts = re.findall(_WORD, wanted.lower()) if isinstance(wanted, str) else []
    texts = [w.text.lower() for w in words]
    starts = [i for i in range(len(texts)) if parts and texts[i : i + len(parts)] == parts]
    if not starts:
        raise ValueError(f"No word {wanted!r} in the sentence: expected one of {', '.join(w.text for w in words)}.")
    if occurrence is not None:
        if not 0 <= occurrence < len(starts):
            raise ValueError(
                f"{wanted!r} stands there {len(starts)} time(s), got occurrence {occurrence}: count from 0."
            )
        starts = [starts[occurrence]]
    return tuple(t for start in starts for word in words[start : start + len(parts)] for t in word.tokens)


@dataclass
class Trace:
    """Attention of one call of the pipeline, summed over its steps; `trace_attention` makes and fills it.

    Attributes:
        tokenizer: the pipeline's.
        length: L.
        factor: image pixels per latent pixel and side.
        keep: steps whose own maps are stored.
        prompts: B sentences.
        latent: (h, w) of the latents.
        steps: calls of the U-Net so far.
    """

    tokenizer: CLIPTokenizer
    length: int
    factor: int
    keep: frozenset[int] = frozenset()
    prompts: list[str] = field(default_factory=list)
    latent: tuple[int, int] = (0, 0)
    steps: int = 0
    _sums: dict[int | None, dict["Layer", Tensor]] = field(default_factory=dict, repr=False)  # (B, heads, h, w, L)

    def begin(self, call: "Call") -> None:
        """Forget what an earlier call left."""
        self.prompts, self.steps, self._sums = call.prompts, 0, {}

    def see(self, layer: "Layer", maps: Tensor, call: "Call") -> None:
        """Add a layer's maps (B, heads, N, L) of one step."""
        self.latent, self.steps = call.latent, call.step + 1
        maps = maps.unflatten(2, call.grid(maps.shape[2]))
        for step in (None, *{call.step} & self.keep):
            sums = self._sums.setdefault(step, {})
            sums[layer] = sums[layer].add_(maps) if layer in sums else maps.clone()

    @property
    def layers(self) -> list["Layer"]:
        """Layers that were seen, in order."""
        return list(self._sums.get(None, {}))

    @property
    def kept_steps(self) -> list[int]:
        """Steps that can be asked for."""
        return sorted(step for step in self._sums if step is not None)

    @property
    def nbytes(self) -> int:
        """Memory of all that is stored, in bytes."""
        return sum(sums.nbytes for layers in self._sums.values() for sums in layers.values())

    def words(self, row: int = 0) -> list[str]:
        """Words of a sentence that heat maps can be asked for."""
        self._check_drawn()
        return [word.text for word in words_of(self.tokenizer, self.prompts[row], self.length)]

    def row_of(self, modality: Modality | str) -> int:
        """Number of the first sentence that names a modality.

        Raises:
            ValueError: nothing drawn; no sentence names it.
        """
        self._check_drawn()
        return self._naming(modality, range(len(self.prompts)))[0]

    def maps(self, layer: "Layer | str", step: int | None = None) -> Tensor:
        """Eq. 5 as it was in one layer: (B, heads, h, w, L), the mean over the steps, or one kept step's; sums to one.

        Raises:
            ValueError: nothing drawn, another layer, or a step that was not kept.
        """
        sums, (found, *_) = self._of(step), self._choose(layer, None)
        return sums[found] / (self.steps if step is None else 1)

    def heat_map(
        self,
        word: str,
        *,
        modality: Modality | str | None = None,
        row: int | None = None,
        layer: "Layer | str | None" = None,
        step: int | None = None,
        head: int | None = None,
        network: str | None = None,
        occurrence: int | None = None,
        normalise: bool = True,
    ) -> Tensor:
        """Eq. 6: maps of the word's tokens, brought to the image linearly, summed over layers, steps and heads.

        Args:
            word: one or several words of the sentence, "<start>" or "<end>".
            modality: only the sentence that names it; default all sentences in which the word stands, averaged.
            row: only the sentence of this number.
            layer: one layer, by its name, or all of "down", "middle" or "up".
            step: one step of those kept.
            head: one head, from 0.
            network: "unet" or "guidance".
            occurrence: which one of a repeated word; default all of them.
            normalise: divide by the largest value. Otherwise the word's share of the attention, which over all tokens
                of a sentence, punctuation included, sums to one in each pixel.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: nothing drawn yet; a word, layer, step, head or network that is not there.
        """
        rows, sums, total, count = self._rows(word, modality, row, occurrence), self._of(step), 0.0, 0
        for found in self._choose(layer, network):
            maps = torch.stack([sums[found][n][..., list(tokens)].sum(dim=-1) for n, tokens in rows.items()])
            maps = maps if head is None else maps[:, [_checked_head(head, maps.shape[1], found)]]
            count += maps.shape[0] * maps.shape[1] * (self.steps if step is None else 1)  # (rows, heads, h, w)
            small = maps.sum(dim=(0, 1))[None, None]  # upsampling is linear: sum first, upsample once
            size = tuple(side * self.factor for side in self.latent)
            total = total + F.interpolate(small, size, mode="bilinear", align_corners=False)[0, 0]
        mean = total / count
        return mean / mean.max().clamp(min=1e-12) if normalise else mean

    def _check_drawn(self) -> None:
        if not self._sums:
            raise ValueError("Nothing was traced: call the pipeline inside the `with trace_attention(…)` block.")

    def _of(self, step: int | None) -> dict["Layer", Tensor]:
        self._check_drawn()
        if step not in self._sums:
            kept = ", ".join(map(str, self.kept_steps)) or "none"
            raise ValueError(f"Step {step!r} was not kept ({kept} of {self.steps}): name it in keep_steps=(…).")
        return self._sums[step]

    def _choose(self, layer: "Layer | str | None", network: str | None) -> list["Layer"]:
        chosen = [x for x in self.layers if layer in (None, x, str(x), x.place) and network in (None, x.network)]
        if not chosen:
            raise ValueError(
                f"No layer {str(layer)!r} in network {network!r}: expected down, middle, up or one of "
                f"{', '.join(map(str, self.layers))}."
            )
        return chosen

    def _rows(
        self, word: str, modality: Modality | str | None, row: int | None, occurrence: int | None
    ) -> dict[int, tuple[int, ...]]:
        """Sentences that are meant and have the word -> positions of its tokens there."""
        self._check_drawn()
        rows = list(range(len(self.prompts)))
        if row is not None:
            if row not in rows:
                raise ValueError(f"No sentence number {row!r}: expected 0 to {len(rows) - 1}.")
            rows = [row]
        if modality is not None:
            rows = self._naming(modality, rows)
        found, missing = {}, None
        for r in rows:
            try:
                found[r] = find_word(words_of(self.tokenizer, self.prompts[r], self.length), word, occurrence)
            except ValueError as error:  # another modality's word, say: an error only if no sentence has it
                missing = missing or error
        if not found:
            raise missing
        return found

    def _naming(self, modality: Modality | str, rows: Sequence[int]) -> list[int]:
        """Those of the sentences that name a modality."""
        wanted = Modality(modality)
        naming = [r for r in rows if wanted in modalities_in(self.prompts[r])]
        if not naming:
            raise ValueError(f"No sentence names {wanted}: expected a modality of {'; '.join(self.prompts)}.")
        return naming


def _checked_head(head: int, heads: int, layer: "Layer") -> int:
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < heads:
        raise ValueError(f"No head {head!r} in layer {layer}: expected 0 to {heads - 1}.")
    return head
