"""The words of the course: four modalities, two IDH types, one canonical sentence.

Source: Kim et al., WACV 2024, §3.1 and Fig. 4 (the words of the prompt).
"""

import re
from enum import StrEnum


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
MODALITY_ALIASES = tuple(_MODALITY_WORDS)
IDH_ALIASES = tuple(_IDH_WORDS)


def _lookup(cls: type[StrEnum], value: object, words: dict, what: str) -> StrEnum:
    found = words.get(str(value).strip().lower())
    if found is None:
        choices = ", ".join(cls)
        aliases = ", ".join(sorted(set(words) - {c.lower() for c in cls}))
        raise ValueError(f"Unknown {what} {value!r}: expected one of {choices} (also understood: {aliases}).")
    return found


def prompt(modality: Modality | str, idh: IDH | str) -> str:
    """The canonical sentence, e.g. ``A T1Gd modality MR image, type of IDH wild glioma``.

    Args:
        modality: a `Modality` or any of its aliases, case-insensitive.
        idh: an `IDH` or any of its aliases, case-insensitive.

    Raises:
        ValueError: unknown word; the message lists the choices.
    """
    return f"A {Modality(modality)} modality MR image, type of IDH {IDH(idh)} glioma"


def parse(sentence: str) -> tuple[Modality, IDH]:
    """Read modality and IDH type back from a sentence, in any word order.

    Raises:
        ValueError: a word is missing, or two different ones are named.
    """
    types = _named(_IDH_WORDS, sentence)
    return _the_one(modalities_in(sentence), Modality, sentence), _the_one(types, IDH, sentence)


def modalities_in(sentence: str) -> set[Modality]:
    """Modalities that a sentence names; a long name hides the short one inside it: T2-FLAIR is FLAIR, not T2."""
    phrases = {phrase: modality for modality, some in MODALITY_PHRASES.items() for phrase in some}
    return _named(_MODALITY_WORDS | phrases, sentence)


def _named(words: dict, sentence: str) -> set:
    names = {_spaced(word): value for word, value in words.items()}
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"(?<![a-z0-9])(?:{longest_first})(?![a-z0-9+])", _spaced(sentence))
    return {names[name] for name in found}


def _spaced(text: str) -> str:
    """Lower case, and a hyphen is a space."""
    return re.sub(r"[\s-]+", " ", text.lower())


def _the_one(found: set, cls: type[StrEnum], sentence: str) -> StrEnum:
    if len(found) != 1:
        what, named = "IDH type" if cls is IDH else "modality", " and ".join(sorted(found)) or "none"
        raise ValueError(f"Expected exactly one {what} ({', '.join(cls)}) in {sentence!r}, found {named}.")
    return found.pop()
