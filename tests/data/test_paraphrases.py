"""Paraphrases: what is trained on and what is held out never meet, and each says what it should."""

import re

import pytest
from torch import Generator

from mrtutor.data.paraphrases import (
    FILLERS,
    SPLITS,
    add_fillers,
    canonical_prompts,
    labelled_sentences,
    paraphrases,
    spellings,
)
from mrtutor.vocabulary import IDH, IDH_ALIASES, MODALITY_ALIASES, Modality, modalities_in, parse, prompt

PAIRS = [(m, i) for m in Modality for i in IDH]


def words(sentences):
    return {word for sentence in sentences for word in re.findall(r"[a-z]+|\d", sentence.lower())}


@pytest.mark.parametrize(("modality", "idh"), PAIRS)
def test_every_pair_has_many_sentences_of_both_splits_the_canonical_one_first(modality, idh):
    train, held_out = paraphrases(modality, idh), paraphrases(modality, idh, "held_out")
    assert train[0] == prompt(modality, idh)
    assert len(train) >= 50 and len(held_out) >= 30


def test_no_sentence_is_repeated_or_shared_by_two_splits_or_meanings_whatever_its_case():
    everything = [sentence.lower() for split in SPLITS for sentence, _, _ in labelled_sentences(split)]
    assert len(set(everything)) == len(everything)


def test_held_out_sentences_use_known_words_in_unknown_orders():
    train, held_out = ([row[0] for row in labelled_sentences(split)] for split in SPLITS)
    assert words(held_out) <= words(train)
    assert "an IDH wild glioma, image of T1Gd modality" in held_out  # a template that is held out as a whole
    assert not any(re.match(r"an idh \S+ glioma, image of", sentence.lower()) for sentence in train)


@pytest.mark.parametrize(("modality", "idh"), PAIRS)
def test_every_spelling_occurs_in_training(modality, idh):
    sentences = [sentence.lower() for sentence in paraphrases(modality, idh)]
    for name in [*spellings(modality), *spellings(idh)]:
        assert any(name.lower() in sentence for sentence in sentences), name


def test_spellings_cover_all_aliases_of_the_vocabulary():
    assert {name.lower() for m in Modality for name in spellings(m)} >= set(MODALITY_ALIASES)
    assert {name.lower() for i in IDH for name in spellings(i)} == set(IDH_ALIASES)


def test_a_sentence_names_its_own_type_and_no_other():
    for split in SPLITS:
        for sentence, _, number in labelled_sentences(split):
            named = {"wild" if word in ("wild", "wildtype", "wt") else "mutant" for word in words([sentence]) & TYPES}
            assert named == (set() if number is None else {list(IDH)[number].value}), sentence


def test_the_vocabulary_reads_every_sentence_as_it_is_trained():
    for sentence, m, i in (row for split in SPLITS for row in labelled_sentences(split)):
        assert modalities_in(sentence) == (set() if m is None else {list(Modality)[m]}), sentence
        if None not in (m, i):
            assert parse(sentence) == (list(Modality)[m], list(IDH)[i]), sentence


TYPES = {"wild", "wildtype", "wt", "mutant", "mut", "mutated"}


def test_partial_sentences_name_one_thing_only():
    assert paraphrases("T2", None)[0] == "a T2 modality MR image"
    assert paraphrases(None, "wild")[0] == "type of IDH wild glioma"
    assert not words(paraphrases("t1ce", None)) & TYPES
    assert not words(paraphrases(None, "wt")) & {"flair", "t", "1", "2"}


def test_aliases_give_the_sentences_of_the_word_they_stand_for():
    assert paraphrases("t1ce", "wt") == paraphrases(Modality.T1GD, IDH.WILD)


def test_cases_are_mixed():
    sentences = paraphrases("T1Gd", "wild")
    assert any(s.isupper() for s in sentences) and any(s.islower() for s in sentences)


def test_the_answer_is_the_callers_own_list():
    paraphrases("T1", "wild").clear()
    assert paraphrases("T1", "wild")


def test_canonical_prompts_are_numbered_by_modality_then_type():
    assert canonical_prompts()[2 * 2 + 1] == prompt("T1Gd", "wild")
    assert len(canonical_prompts()) == 8


def test_fillers_keep_the_words_and_their_order_and_change_no_meaning():
    sentence = prompt("FLAIR", "mutant")
    longer = add_fillers(sentence, Generator().manual_seed(0))
    left = iter(longer.split())
    assert longer != sentence and all(word in left for word in sentence.split())
    assert longer == add_fillers(sentence, Generator().manual_seed(0))
    meaningful = words([*MODALITY_ALIASES, *IDH_ALIASES, "contrast", "gadolinium", "post", "enhanced"])
    assert not words(FILLERS) & meaningful


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("T3", "wild"), "Unknown modality 'T3': expected one of FLAIR, T1, T1Gd, T2"),
        (("T2", "feral"), "Unknown IDH type 'feral': expected one of mutant, wild"),
        (("T2", "wild", "test"), "Unknown split 'test': expected one of train, held_out"),
        ((None, None), "got neither"),
    ],
)
def test_bad_input_says_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        paraphrases(*arguments)
