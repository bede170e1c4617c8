"""Words, sentences and paraphrases."""

import numpy as np
import pytest

from mrtutor import IDH, Findings, Modality, sentence
from mrtutor.vocabulary import (
    add_fillers,
    canonical_prompts,
    idh_of,
    labelled_sentences,
    modalities_in,
    paraphrases,
)

FULL = Findings(True, "left", "anterior", "large", "ring-enhancing", True, False)


def test_the_canonical_sentence_is_the_papers() -> None:
    assert sentence("T1Gd", "wild") == "A T1Gd modality MR image, type of IDH wild glioma"


def test_sentences_say_what_is_known_and_no_more() -> None:
    assert sentence("T2") == "A T2 modality MR image, type of glioma"
    assert sentence("T2", "mutant", Findings(tumour=False)) == "A T2 modality MR image, no tumour"
    assert sentence("t1ce", "wt", FULL).endswith(
        "glioma, left anterior, large, ring-enhancing, with necrosis, without oedema"
    )
    assert sentence("T1", None, Findings(simulated=True)).startswith("A simulated T1 ")


@pytest.mark.parametrize("word", ["IDH-WT", "IDH1 wt", "wildtype", "Wild-Type", "IDH wild type"])
def test_wild_types_of_tables(word: str) -> None:
    assert idh_of(word) is IDH.WILD


@pytest.mark.parametrize("word", ["mutant", "IDH-mutant", "IDH1 p.R132H", "IDH2 R172K", "mutated (NOS)", "MUT"])
def test_mutations_of_tables(word: str) -> None:
    assert idh_of(word) is IDH.MUTANT


@pytest.mark.parametrize(
    "word", ["", None, "0", "1", "-1", "negative", "Not Available", "not tested", "?", "NOS", "IDH1"]
)
def test_everything_else_is_unknown(word: object) -> None:
    assert idh_of(word) is None


def test_unknown_words_name_the_choices() -> None:
    with pytest.raises(ValueError, match="FLAIR"):
        Modality("CT")
    with pytest.raises(ValueError, match="left"):
        Findings(side="top")


def test_a_long_name_hides_the_short_one() -> None:
    assert modalities_in("a T2-FLAIR image") == {Modality.FLAIR}
    assert modalities_in("T1 and T2") == {Modality.T1, Modality.T2}


def test_paraphrases_name_the_modality_and_splits_never_meet() -> None:
    for modality in Modality:
        train = paraphrases(modality, "wild", FULL)
        held_out = paraphrases(modality, "wild", FULL, split="held_out")
        assert train[0] == sentence(modality, "wild", FULL)
        assert all(modalities_in(text) == {modality} for text in train + held_out)
        assert not {text.lower() for text in train} & {text.lower() for text in held_out}


def test_a_tumour_free_sentence_never_says_glioma() -> None:
    texts = paraphrases("T1", "wild", Findings(tumour=False))
    assert not any("glioma" in text.lower() or "wild" in text.lower() for text in texts)


def test_labels_belong_to_their_sentences() -> None:
    rows = labelled_sentences("held_out")
    assert len({text for text, _, _ in rows}) == len(rows)
    for text, modality, _ in rows:
        assert modalities_in(text) == (set() if modality is None else {list(Modality)[modality]})
    assert len(set(canonical_prompts())) == 8


def test_flipping() -> None:
    assert FULL.flipped().side == "right" and FULL.flipped().flipped() == FULL


def test_fillers_add_words_and_keep_the_others() -> None:
    rng = np.random.default_rng(0)
    words = add_fillers("A T1 image", lambda n: int(rng.integers(n))).split()
    assert len(words) > 3 and [w for w in words if w in ("A", "T1", "image")] == ["A", "T1", "image"]
