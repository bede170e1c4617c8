"""The words of the course: modalities, IDH types, findings, and the sentences made of them.

The canonical sentence is the paper's: ``A T1Gd modality MR image, type of IDH wild glioma`` (Kim et al., WACV 2024,
§4.1). Everything behind it is optional and ours: where the tumour is, how large, whether it enhances, and ``simulated``
for slices that no scanner has seen. The paper's outlook (§5) asks for such sentences.

No torch here, so that ``import mrtutor`` stays fast.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache


class Modality(StrEnum):
    """MR sequence of a slice. The order of the members is the order on disk."""

    FLAIR = "FLAIR"
    T1 = "T1"
    T1GD = "T1Gd"
    T2 = "T2"

    @classmethod
    def _missing_(cls, value: object) -> "Modality":
        return _lookup(cls, value, _MODALITY_WORDS, "modality")


class IDH(StrEnum):
    """IDH status of a glioma."""

    MUTANT = "mutant"
    WILD = "wild"

    @classmethod
    def _missing_(cls, value: object) -> "IDH":
        return _lookup(cls, value, _IDH_WORDS, "IDH type")


_MODALITY_WORDS = {m.lower(): m for m in Modality} | {
    alias: Modality.T1GD for alias in ("t1ce", "t1c", "t1c+", "t1post", "t1-post")
}
_IDH_WORDS = {
    "mutant": IDH.MUTANT,
    "mut": IDH.MUTANT,
    "mutated": IDH.MUTANT,
    "wild": IDH.WILD,
    "wildtype": IDH.WILD,
    "wild-type": IDH.WILD,
    "wt": IDH.WILD,
}
MODALITY_PHRASES = {  # names of several words, as radiologists write them
    Modality.FLAIR: ("T2-FLAIR",),
    Modality.T1: ("T1-weighted", "T1w"),
    Modality.T1GD: ("T1 Gd", "T1 post-contrast", "post-contrast T1", "contrast-enhanced T1", "T1 with gadolinium"),
    Modality.T2: ("T2-weighted", "T2w"),
}
FILE_NAMES = {  # as public cohorts end their files, lower case; the first one is BraTS 2021's, which we write
    Modality.FLAIR: ("flair", "t2f"),
    Modality.T1: ("t1", "t1n", "t1w"),
    Modality.T1GD: ("t1ce", "t1gd", "t1c"),
    Modality.T2: ("t2", "t2w"),
}


def _lookup(cls: type[StrEnum], value: object, words: dict, what: str) -> StrEnum:
    found = words.get(str(value).strip().lower())
    if found is None:
        aliases = ", ".join(sorted(set(words) - {c.lower() for c in cls}))
        raise ValueError(f"Unknown {what} {value!r}: expected one of {', '.join(cls)} (also understood: {aliases}).")
    return found


# What a table may call a mutation; everything that is in neither list is unknown, never a guess.
_MUTANT_WORDS = {"mutant", "mut", "mutated", "mutation", "mutant nos", "mutated nos"}
_WILD_WORDS = {"wild", "wildtype", "wild type", "wt"}
_MUTATION = re.compile(r"(p )?r(132|140|172)[a-z]")  # an amino-acid change of IDH1 or IDH2, such as R132H


def idh_of(word: object) -> IDH | None:
    """IDH type that a word of a table names; None where it is unknown.

    Understood: the aliases of `IDH`, with or without "IDH", "IDH1" or "IDH2" before them ("IDH-WT", "IDH1 mutated
    (NOS)"), and the amino-acid change itself ("IDH1 p.R132H"). "0", "1", "negative", "not tested" and all else: None.
    """
    text = re.sub(r"[\s_:;.,()/-]+", " ", str(word).lower()).strip()
    text = re.sub(r"^idh ?[12]?( |$)", "", text)
    if text in _WILD_WORDS:
        return IDH.WILD
    if text in _MUTANT_WORDS or _MUTATION.fullmatch(text):
        return IDH.MUTANT
    return None


def modalities_in(text: str) -> set[Modality]:
    """Modalities that a sentence names; a long name hides the short one inside it: T2-FLAIR is FLAIR, not T2."""
    names = {_spaced(name): modality for modality in Modality for name in spellings(modality)}
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"(?<![a-z0-9])(?:{longest_first})(?![a-z0-9+])", _spaced(text))
    return {names[name] for name in found}


def _spaced(text: str) -> str:
    """Lower case, and a hyphen is a space."""
    return re.sub(r"[\s-]+", " ", text.lower())


# What can be said of a tumour, and in which words; the first of each is the canonical one.
SIDE = {
    "left": ("left", "in the left hemisphere", "left-sided"),
    "right": ("right", "in the right hemisphere", "right-sided"),
}
PLACE = {
    "anterior": ("anterior", "frontal", "in the anterior third"),
    "middle": ("middle", "central", "in the middle third"),
    "posterior": ("posterior", "at the back", "in the posterior third"),
}
SIZE = {"small": ("small", "of small size"), "large": ("large", "extensive")}
ENHANCEMENT = {
    "ring-enhancing": ("ring-enhancing", "with a ring of enhancement", "rim-enhancing"),
    "enhancing": ("enhancing", "with contrast enhancement"),
    "non-enhancing": ("non-enhancing", "without enhancement", "no contrast enhancement"),
}
NECROSIS = {True: ("with necrosis", "necrotic"), False: ("without necrosis", "no necrosis")}
OEDEMA = {True: ("with oedema", "with surrounding edema"), False: ("without oedema", "no edema")}
NO_TUMOUR = ("no tumour", "without a tumour", "tumor-free")
PARTS = {"side": SIDE, "place": PLACE, "size": SIZE, "enhancement": ENHANCEMENT, "necrosis": NECROSIS, "oedema": OEDEMA}


@dataclass(frozen=True)
class Findings:
    """What a slice shows, as far as it is said; None leaves a part out of the sentence.

    `mrtutor.data.prepare.describe` reads them off a segmentation and states the thresholds. A ValueError names the
    choices where a word is not in the tables above. `tumour` False: nothing else is said. `side` is the patient's,
    `place` a third of the brain, `simulated` marks slices of the simulator; a real slice is not marked.
    """

    tumour: bool = True
    side: str | None = None
    place: str | None = None
    size: str | None = None
    enhancement: str | None = None
    necrosis: bool | None = None
    oedema: bool | None = None
    simulated: bool = False

    def __post_init__(self) -> None:
        for name, words in PARTS.items():
            value = getattr(self, name)
            if value is not None and value not in words:
                choices = ", ".join(map(str, words))
                raise ValueError(f"Unknown {name} {value!r}: expected one of {choices}, or None to leave it out.")

    def flipped(self) -> "Findings":
        """The findings of the slice flipped left to right."""
        other = {"left": "right", "right": "left"}.get(self.side)
        return replace(self, side=other)

    def phrases(self, number: int = 0) -> list[str]:
        """The parts in words, in order; `number` chooses among synonyms, 0 the canonical ones."""
        if not self.tumour:
            return [NO_TUMOUR[number % len(NO_TUMOUR)]]
        said = []
        for name, words in PARTS.items():
            value = getattr(self, name)
            if value is not None:
                said.append(words[value][number % len(words[value])])
        if number == 0 and self.side and self.place:  # "left anterior" reads better than "left, anterior"
            said[:2] = [f"{self.side} {self.place}"]
        return said


def sentence(modality: Modality | str, idh: IDH | str | None = None, findings: Findings | None = None) -> str:
    """The canonical sentence, e.g. ``A T1Gd modality MR image, type of IDH wild glioma, left anterior, large``.

    Words may be any alias, in any case; an unknown one is a ValueError that lists the choices. `idh` None, where it is
    unknown, gives ``type of glioma``.
    """
    findings = findings or Findings()
    domain = "simulated " if findings.simulated else ""
    image = f"A {domain}{Modality(modality)} modality MR image"
    if not findings.tumour:
        return ", ".join([image, *findings.phrases()])
    kind = f"IDH {IDH(idh)} glioma" if idh is not None else "glioma"
    return ", ".join([image, f"type of {kind}", *findings.phrases()])


def canonical_prompts() -> list[str]:
    """The eight canonical sentences; number 2·m + i is modality m with IDH type i."""
    return [sentence(m, i) for m in Modality for i in IDH]


SPLITS = ("train", "held_out")

# "{m}" is a spelling of the modality, "{i}" of the IDH type. The first template of each is the paper's.
_BOTH = (
    "A {m} modality MR image, type of IDH {i} glioma",
    "{m} MR image of an IDH {i} glioma",
    "type of IDH {i} glioma, a {m} modality MR image",
    "IDH-{i} glioma, {m} modality",
    "{m}, {i}",
    "{i} {m}",
    "a {m} weighted MR slice showing an IDH {i} glioma",
    "MR image of a glioma: {i} type, {m}.",
    "IDH {i} brain tumour on {m}",
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
    "a {m} weighted MR slice of the brain",
    "the image is a {m} sequence",
)
_MODALITY_HELD_OUT = ("MR modality: {m}", "an image of {m} modality", "the {m} MR scan", "brain slice, {m}")
_IDH = (
    "type of IDH {i} glioma",
    "{i}",
    "IDH {i}",
    "IDH-{i} glioma",
    "brain tumor with IDH status {i}",
    "the glioma is {i}",
)
_IDH_HELD_OUT = ("an IDH {i} brain tumour", "glioma of type IDH {i}", "IDH type: {i}", "MR image showing a {i} glioma")
_NEITHER = ("a brain MR image",)

# Words a reader may add without changing the meaning. None of them is a finding.
FILLERS = tuple(
    "please show me draw generate picture photo MRI magnetic resonance axial coronal sagittal patient adult synthetic "
    "one this that my here new clear grade high low cancer lesion head human clinical for has looks what does".split()
)
_HOLD_OUT_EVERY = 7  # prime, so that no spelling or template falls out as a whole


def spellings(word: Modality | IDH) -> list[str]:
    """All names of a modality or IDH type, the canonical one first, no two equal when lower-cased."""
    if isinstance(word, Modality):
        names = [a for a, m in _MODALITY_WORDS.items() if m is word] + list(MODALITY_PHRASES[word])
    else:
        names = [a for a, i in _IDH_WORDS.items() if i is word]
    return [word.value, *(n for n in names if n.lower() != word.value.lower())]


def paraphrases(
    modality: Modality | str | None = None,
    idh: IDH | str | None = None,
    findings: Findings | None = None,
    split: str = "train",
) -> list[str]:
    """Sentences of one meaning, in a fixed order.

    Templates × spellings of the words, with the findings in changing words behind them. What is None is not said.
    Held out are whole templates (word orders never read in training) and every seventh combination of a training
    template with two spellings; the two splits never share a sentence, whatever its case. Where a modality is named,
    the first training sentence is the canonical one. ValueError: unknown word or split, or nothing to be said.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    if modality is None and idh is None and findings is None:
        raise ValueError("Expected a modality, an IDH type or findings, got nothing: a sentence must say something.")
    modality = None if modality is None else Modality(modality)
    idh = None if idh is None or (findings and not findings.tumour) else IDH(idh)
    train, held_out = _templates(modality, idh)
    bases = train if split == "train" else held_out
    if findings is None:
        return list(bases)
    told = [_with_findings(base, findings, number) for number, base in enumerate(bases)]
    if split == "train" and modality is not None:
        told[0] = sentence(modality, idh, findings)
    return told


def _with_findings(base: str, findings: Findings, number: int) -> str:
    phrases = findings.phrases(number)
    if findings.simulated:
        phrases.insert(number % (len(phrases) + 1), "simulated")
    text = ", ".join([base.rstrip("."), *phrases])
    return text.upper() if base.isupper() else text


@cache
def _templates(modality: Modality | None, idh: IDH | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and held-out sentences without findings."""
    if modality is None and idh is None:
        return _NEITHER, _NEITHER
    seen, unseen = _BOTH, _BOTH_HELD_OUT
    if idh is None:
        seen, unseen = _MODALITY, _MODALITY_HELD_OUT
    elif modality is None:
        seen, unseen = _IDH, _IDH_HELD_OUT
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


def _cased(template: str, modality: str, idh: str, number: int) -> str:
    """Fill in a template; every third sentence is in lower case, every third in capitals."""
    text = template.format(m=modality, i=idh)
    return (text, text.lower(), text.upper())[number % 3]


def labelled_sentences(split: str = "train") -> list[tuple[str, int | None, int | None]]:
    """Every sentence of a split without findings, with the indices of its modality and IDH type.

    None where the sentence does not say. Order: the eight full prompts (modality by modality), four that name a
    modality only, two an IDH type only.
    """
    groups = [(m, i) for m in Modality for i in IDH] + [(m, None) for m in Modality] + [(None, i) for i in IDH]
    modalities, types = list(Modality), list(IDH)
    return [
        (text, None if m is None else modalities.index(m), None if i is None else types.index(i))
        for m, i in groups
        for text in paraphrases(m, i, split=split)
    ]


def add_fillers(text: str, draw: Callable[[int], int], most: int = 3) -> str:
    """The sentence with 1 to `most` random `FILLERS` between its words; `draw(n)` gives an integer in [0, n)."""
    words = text.split(" ")
    for _ in range(1 + draw(most)):
        place = draw(len(words) + 1)
        words.insert(place, FILLERS[draw(len(FILLERS))])
    return " ".join(words)
