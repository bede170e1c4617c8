"""Table 3 with judges whose answer is known, and prompts against masks with a reader that reads what we wrote."""

import json

import numpy as np
import pytest
import torch

from mrtutor.metrics.draws import SyntheticSet
from mrtutor.metrics.table3 import (
    phrase_scores,
    phrases,
    prompt_against_mask,
    retrieval,
    sentence_scores,
    table3,
    true_phrases,
)
from mrtutor.vocabulary import IDH, Modality, parse

WORDS = [IDH.MUTANT, IDH.WILD] * 4
PATIENTS = np.arange(8) // 2


class Perfect:
    """Reads modality and type from two pixels that the tests paint there."""

    def embed_images(self, slices):
        found = torch.zeros(len(slices), 6)
        for i, image in enumerate(slices):
            found[i, int(image[0, 0])] = found[i, 4 + int(image[0, 1])] = 0.5**0.5
        return found

    def embed_sentences(self, sentences):
        found = torch.zeros(len(sentences), 6)
        for row, sentence in zip(found, sentences, strict=True):
            for m, modality in enumerate(Modality):
                row[m] = f" {modality} " in sentence
            for i, idh in enumerate(IDH):
                row[4 + i] = str(idh) in sentence
        return torch.nn.functional.normalize(found, dim=-1)


class Constant(Perfect):
    """The same for every image."""

    def embed_images(self, slices):
        return torch.ones(len(slices), 6) / 6**0.5


def painted(words=WORDS) -> np.ndarray:
    images = np.zeros((len(words), 4, 8, 8), np.uint8)
    images[:, :, 0, 0] = np.arange(4)
    images[:, :, 0, 1] = np.array([list(IDH).index(w) for w in words])[:, None]
    return images


def as_set(images, words=WORDS, name="ours") -> SyntheticSet:
    return SyntheticSet(name, images, np.arange(len(words)), list(words), PATIENTS[: len(words)])


def test_fourteen_sentences_and_which_are_true():
    sentences = phrases()
    assert len(sentences) == 14 and sentences[8:10] == ["a FLAIR modality MR image", "a T1 modality MR image"]
    assert sentences[12:] == ["type of IDH mutant glioma", "type of IDH wild glioma"]
    true = true_phrases(WORDS)
    assert (true.sum(axis=2) == 3).all()
    for n, word in enumerate(WORDS):
        for m, modality in enumerate(Modality):
            (full,) = np.flatnonzero(true[n, m, :8])
            assert parse(sentences[full]) == (modality, word)
            assert str(modality) in sentences[8 + np.flatnonzero(true[n, m, 8:12])[0]]
            assert str(word) in sentences[12 + np.flatnonzero(true[n, m, 12:])[0]]


def test_a_perfect_judge_retrieves_everything():
    found = retrieval(sentence_scores(Perfect(), painted()), WORDS, PATIENTS)
    assert [found[k]["value"] for k in ("modality", "idh", "both", "idh_of_sequence")] == [1, 1, 1, 1]
    assert np.array_equal(found["confusion"], 4 * np.eye(8))
    assert found["both"]["n"] == 32 and found["idh_of_sequence"]["n"] == 8


def test_a_constant_judge_is_at_chance():
    found = retrieval(sentence_scores(Constant(), painted()), WORDS, PATIENTS)
    assert [found[k]["value"] for k in ("modality", "idh", "both", "idh_of_sequence")] == [0.25, 0.5, 0.125, 0.5]
    assert np.sum(found["confusion"]) == 32


def test_scores_of_right_and_wrong_sentences_by_hand():
    table = phrase_scores(sentence_scores(Perfect(), painted()), WORDS, PATIENTS)
    cell = table["full"]["T1Gd"]["wild"]
    assert cell["matched"]["value"] == pytest.approx(100, abs=1e-3) and cell["matched"]["n"] == 4
    # of the 7 wrong ones 3 share the type (cos ½), 1 the modality (½), 3 neither (0)
    assert cell["mismatched"]["value"] == pytest.approx(100 * 4 * 0.5 / 7, abs=1e-3)
    root = 100 * 0.5**0.5
    assert table["modality"]["T1"]["mutant"]["matched"]["value"] == pytest.approx(root, abs=1e-3)
    assert table["idh"]["T1"]["mutant"]["mismatched"]["value"] == pytest.approx(0, abs=1e-3)
    assert table["summary"]["idh"]["gap"]["value"] == pytest.approx(root, abs=1e-3)
    constant = phrase_scores(sentence_scores(Constant(), painted()), WORDS, PATIENTS)
    assert constant["summary"]["full"]["matched"]["value"] > 50, "a high score ..."
    assert constant["summary"]["full"]["gap"]["value"] == pytest.approx(0, abs=1e-3), "... that says nothing"


def test_the_table_has_models_and_cohort_and_is_json():
    wrong = painted()[:, [1, 2, 3, 0]]  # pictures of another modality
    table = table3({"ours": as_set(wrong), "ldm": as_set(painted())}, as_set(painted()), Perfect(), "perfect")
    assert set(table) >= {"full", "modality", "idh", "retrieval", "models", "judge"}
    assert set(table["full"]) == set(map(str, Modality)) and set(table["full"]["T1"]) == {"mutant", "wild"}
    assert table["retrieval"]["ours"]["modality"]["value"] == 0 and table["retrieval"]["ours"]["idh"]["value"] == 1
    assert table["retrieval"]["ldm"]["both"]["value"] == table["retrieval"]["cohort"]["both"]["value"] == 1
    assert table["full"] == table["models"]["ours"]["full"]
    json.dumps(table, allow_nan=False)
    with pytest.raises(ValueError, match="at least one model"):
        table3({}, as_set(painted()), Perfect(), "perfect")


class Reads:
    """A reader that finds the type in the pixel."""

    def read_idh(self, sequences):
        return (sequences[:, 0, 0, 1] * 255).round().long()


@pytest.mark.parametrize(("obeys", "share"), [(True, 1.0), (False, 0.0)])
def test_whom_the_picture_follows(obeys, share):
    words = [IDH.WILD if w is IDH.MUTANT else IDH.MUTANT for w in WORDS]
    swapped = as_set(painted(words if obeys else WORDS), words)
    own = {"ours": as_set(painted()), "ldm": as_set(painted(), name="ldm")}
    report = prompt_against_mask(Reads(), own, {"ours": swapped}, as_set(painted()))
    assert report["ours"]["follows_prompt"]["value"] == share
    assert report["ours"]["follows_mask"]["value"] == 1 - share
    assert report["ours"]["word_effect"]["value"] == share and report["ours"]["agreeing"]["value"] == 1
    cells = {m: {w: c["value"] for w, c in row.items()} for m, row in report["ours"]["wild_read"].items()}
    assert cells["mutant"]["mutant"] == 0 and cells["wild"]["wild"] == 1
    assert cells["mutant"]["wild"] == share and cells["wild"]["mutant"] == 1 - share
    assert report["ldm"]["follows_prompt"]["value"] == 1 and set(report["ldm"]["wild_read"]) == {"none"}
    assert (report["cohort"]["agreeing"]["value"], report["cohort"]["agreeing"]["n"]) == (1.0, 8)
    json.dumps(report, allow_nan=False)


def test_swapped_rows_must_be_the_first_of_the_own():
    shifted = SyntheticSet("ours", painted(), np.arange(8)[::-1], WORDS, PATIENTS)
    with pytest.raises(ValueError, match="begin with the same rows"):
        prompt_against_mask(Reads(), {"ours": as_set(painted())}, {"ours": shifted}, as_set(painted()))
