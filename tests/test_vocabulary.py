"""Words: every alias is understood, every unknown word is answered with the choices."""

import pytest

from mrtutor.vocabulary import IDH, IDH_ALIASES, MODALITY_ALIASES, Modality, modalities_in, parse, prompt


def test_order_on_disk():
    assert list(Modality) == ["FLAIR", "T1", "T1Gd", "T2"]


@pytest.mark.parametrize("word", ["T1Gd", "t1gd", "T1CE", "t1ce", "T1c", "T1C+", "T1post", " t1Gd "])
def test_aliases_of_contrast_enhanced_t1(word):
    assert Modality(word) is Modality.T1GD


@pytest.mark.parametrize(
    ("word", "idh"),
    [
        ("mutant", "mutant"),
        ("MUT", "mutant"),
        ("wild", "wild"),
        ("Wildtype", "wild"),
        ("wild-type", "wild"),
        ("WT", "wild"),
    ],
)
def test_aliases_of_idh(word, idh):
    assert IDH(word) == idh


@pytest.mark.parametrize("word", ["T3", "", "PD", None, 1, "T1 T2"])
def test_unknown_modality_lists_choices(word):
    with pytest.raises(ValueError, match=r"Unknown modality.*FLAIR, T1, T1Gd, T2.*t1ce"):
        Modality(word)


@pytest.mark.parametrize("word", ["savage", "", None, "IDH"])
def test_unknown_idh_lists_choices(word):
    with pytest.raises(ValueError, match=r"Unknown IDH type.*mutant, wild.*wt"):
        IDH(word)


def test_canonical_sentence():
    assert prompt("t1ce", "wt") == "A T1Gd modality MR image, type of IDH wild glioma"


def test_prompt_refuses_unknown_words():
    with pytest.raises(ValueError, match="Unknown modality"):
        prompt("CT", "wild")
    with pytest.raises(ValueError, match="Unknown IDH"):
        prompt("T2", "green")


@pytest.mark.parametrize("modality", MODALITY_ALIASES)
@pytest.mark.parametrize("idh", IDH_ALIASES)
def test_parse_reads_back_every_alias(modality, idh):
    sentence = f"An MR image of {idh} glioma, {modality} modality"
    assert parse(sentence) == (Modality(modality), IDH(idh))


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("idh", IDH)
def test_parse_inverts_prompt(modality, idh):
    assert parse(prompt(modality, idh)) == (modality, idh)


@pytest.mark.parametrize(
    ("words", "modality"),
    [
        ("T1 post-contrast", "T1Gd"),
        ("T1 Gd", "T1Gd"),
        ("T1-Gd", "T1Gd"),
        ("contrast-enhanced T1", "T1Gd"),
        ("post contrast T1", "T1Gd"),
        ("T1C+", "T1Gd"),
        ("T2-FLAIR", "FLAIR"),
        ("T2 flair", "FLAIR"),
        ("T1-weighted", "T1"),
        ("T2w", "T2"),
    ],
)
def test_a_phrase_hides_the_word_inside_it(words, modality):
    assert parse(f"A {words} image, IDH-wild glioma") == (modality, "wild")
    assert modalities_in(f"{words}, and T1 beside it".upper()) == {modality, "T1"}


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("an MR image of wild glioma", r"exactly one modality .*found none"),
        ("a T1 modality MR image", r"exactly one IDH type .*found none"),
        ("a T1 and T2 image of wild glioma", r"exactly one modality .*found T1 and T2"),
        ("a T1 image of wild or mutant glioma", r"exactly one IDH type .*found mutant and wild"),
        ("", "exactly one modality"),
    ],
)
def test_parse_refuses_what_is_not_unique(sentence, message):
    with pytest.raises(ValueError, match=message):
        parse(sentence)
