"""Many ways to say one prompt: what MR-CLIP is trained on, and what it has never read.

Templates × spellings of the modality × spellings of the IDH type, in a fixed order. *Training* sentences and
*held-out* sentences never coincide, whatever their case. Held out are whole templates (word orders never read) and
every seventh combination of a training template with two spellings.

Source of the canonical sentence and of its two parts: Kim et al., WACV 2024, §3.1, Fig. 4 and Table 3.
"""

from functools import cache

import torch
from torch import Generator

from mrtutor.vocabulary import IDH, IDH_ALIASES, MODALITY_ALIASES, MODALITY_PHRASES, Modality, prompt

SPLITS = ("train", "held_out")

# "{m}" is a spelling of the modality, "{i}" of the IDH type. The first template of each is the paper's.
_BOTH = (
    "A {m} modality MR image, type of IDH {i} glioma",
    "{m} MR image of an IDH {i} glioma",
    "an MR image, modality {m}, glioma type IDH {i}.",
    "type of IDH {i} glioma, a {m} modality MR image",
    "IDH-{i} glioma, {m} modality",
    "{m}, {i}",
    "{i} {m}",
    "glioma of IDH {i} type in a {m} MR image",
    "a {m} weighted MR slice showing an IDH {i} glioma",
    "MR image of a glioma: {i} type, {m}.",
    "IDH {i} brain tumour on {m}",
    "modality: {m}; IDH: {i}",
    "brain MR scan, {m} sequence, IDH status {i}",
    "The glioma is IDH {i} and the image is {m}.",
)
_BOTH_HELD_OUT = (
    "an IDH {i} glioma, image of {m} modality",
    "MR modality {m}, IDH {i} glioma.",
    "{i} glioma: MR image, {m} sequence",
    "an image of modality {m} showing IDH type {i}",
    "glioma: IDH {i}; MR: {m}",
    "a glioma of type IDH {i}, and the modality of the MR image is {m}",
)
_MODALITY = (
    "a {m} modality MR image",
    "{m}",
    "{m} MR image",
    "modality {m}",
    "MR image, {m} modality.",
    "an MR image of modality {m}",
    "a {m} weighted MR slice of the brain",
    "the image is a {m} sequence",
)
_MODALITY_HELD_OUT = ("MR modality: {m}", "an image of {m} modality", "the {m} MR scan", "brain slice, {m}")
_IDH = (
    "type of IDH {i} glioma",
    "{i}",
    "IDH {i}",
    "IDH-{i} glioma",
    "glioma, IDH {i}.",
    "a glioma of IDH {i} type",
    "brain tumor with IDH status {i}",
    "the glioma is {i}",
)
_IDH_HELD_OUT = ("an IDH {i} brain tumour", "glioma of type IDH {i}", "IDH type: {i}", "MR image showing a {i} glioma")

# Words a reader may add without changing the meaning.
FILLERS = tuple(
    "please show me draw generate picture photo MRI magnetic resonance axial coronal sagittal patient adult simulated "
    "synthetic one this that my here new clear large small left right frontal temporal parietal lobe hemisphere grade "
    "high low cancer lesion head human clinical from for has looks like at what does".split()
)
_HOLD_OUT_EVERY = 7  # prime, so that no spelling or template falls out as a whole


def spellings(word: Modality | IDH) -> list[str]:
    """All names of a modality or IDH type, the canonical one first, no two equal when lower-cased."""
    if isinstance(word, Modality):
        names = [a for a in MODALITY_ALIASES if Modality(a) is word] + list(MODALITY_PHRASES[word])
    else:
        names = [a for a in IDH_ALIASES if IDH(a) is word]
    return [word.value, *(n for n in names if n.lower() != word.value.lower())]


def paraphrases(modality: Modality | str | None, idh: IDH | str | None, split: str = "train") -> list[str]:
    """Sentences that mean the given modality and IDH type, in a fixed order.

    Args:
        modality: a modality or any alias; None for sentences that name the IDH type only.
        idh: an IDH type or any alias; None for sentences that name the modality only.
        split: "train" or "held_out". The first training sentence is the canonical one.

    Raises:
        ValueError: unknown word or split, or neither modality nor IDH type given.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    if modality is None and idh is None:
        raise ValueError("Expected a modality, an IDH type or both, got neither: a sentence must name at least one.")
    train, held_out = _sentences(
        None if modality is None else Modality(modality),
        None if idh is None else IDH(idh),
    )
    return list(train if split == "train" else held_out)


@cache
def _sentences(modality: Modality | None, idh: IDH | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and held-out sentences."""
    seen, unseen = _templates(modality, idh)
    pairs = [
        (j + 2 * k, m, i)
        for j, m in enumerate(spellings(modality) if modality else [""])
        for k, i in enumerate(spellings(idh) if idh else [""])
    ]
    train, held_out = [], [_cased(t, m, i, number + n) for number, t in enumerate(unseen) for n, m, i in pairs]
    for number, template in enumerate(seen):
        for n, m, i in pairs:
            held = (number + 2 * n) % _HOLD_OUT_EVERY == _HOLD_OUT_EVERY - 1
            (held_out if held else train).append(_cased(template, m, i, number + n))
    return tuple(train), tuple(held_out)


def _templates(modality: Modality | None, idh: IDH | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if idh is None:
        return _MODALITY, _MODALITY_HELD_OUT
    if modality is None:
        return _IDH, _IDH_HELD_OUT
    return _BOTH, _BOTH_HELD_OUT


def _cased(template: str, modality: str, idh: str, number: int) -> str:
    """Fill in a template; every third sentence is in lower case, every third in capitals."""
    sentence = template.format(m=modality, i=idh)
    return (sentence, sentence.lower(), sentence.upper())[number % 3]


def labelled_sentences(split: str = "train") -> list[tuple[str, int | None, int | None]]:
    """Every sentence of a split with the indices of its modality and IDH type; None where it does not say.

    Order: the eight full prompts (modality by modality), four that name a modality only, two an IDH type only.
    """
    groups = [(m, i) for m in Modality for i in IDH] + [(m, None) for m in Modality] + [(None, i) for i in IDH]
    modalities, types = list(Modality), list(IDH)
    return [
        (sentence, None if m is None else modalities.index(m), None if i is None else types.index(i))
        for m, i in groups
        for sentence in paraphrases(m, i, split)
    ]


def canonical_prompts() -> list[str]:
    """The eight canonical sentences; number 2·m + i is modality m with IDH type i."""
    return [prompt(m, i) for m in Modality for i in IDH]


def add_fillers(sentence: str, generator: Generator, most: int = 3) -> str:
    """The sentence with 1 to `most` random `FILLERS` between its words."""
    words = sentence.split(" ")
    for _ in range(int(torch.randint(1, most + 1, (1,), generator=generator))):
        place, word = (int(torch.randint(n, (1,), generator=generator)) for n in (len(words) + 1, len(FILLERS)))
        words.insert(place, FILLERS[word])
    return " ".join(words)
