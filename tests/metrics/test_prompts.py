import numpy as np
import pytest

from mrtutor.metrics import prompts
from mrtutor.vocabulary import sentence

TYPES = np.array(["mutant", "wild", "mutant", "wild"])
PATIENTS = np.array(["a", "b", "c", "d"])


def perfect_scores(idh):
    """(n, 4, 14): 30 for a true sentence, 10 for a false one."""
    scores = np.full((len(idh), 4, 14), 10.0)
    for i, word in enumerate(idh):
        for m in range(4):
            scores[i, m, 8 + m] = 30
            if word:
                scores[i, m, [2 * m + (word == "wild"), 12 + (word == "wild")]] = 30
    return scores


def test_phrases_are_the_papers():
    assert len(prompts.phrases()) == 14
    assert prompts.phrases()[5] == sentence("T1Gd", "wild") and prompts.phrases()[13] == "type of IDH wild glioma"


def test_a_perfect_scorer_and_what_is_left_out():
    idh = np.array(["mutant", "wild", "", "wild"])
    scores = perfect_scores(idh)
    scores[0, 3] = np.nan
    for phrase, (right, wrong) in prompts.clip_scores(scores, idh).items():
        seen = np.isfinite(right)
        assert (right[seen] == 30).all() and (wrong[seen] == 10).all() and np.isnan(wrong[~seen]).all()
        assert seen.sum() == (15 if phrase == "modality" else 11)  # three sequences of known type, one without T2
    found = prompts.retrieval(scores, idh, PATIENTS)
    assert found["both"].value == 1 and found["both"].n == 11 and found["idh_of_sequence"].n == 3


def test_retrieval_tells_modality_from_type():
    scores = perfect_scores(TYPES)
    scores[1, :, :8] = perfect_scores(["mutant"])[0, :, :8]  # a wild sequence that looks mutant
    found = prompts.retrieval(scores, TYPES, PATIENTS)
    assert found["modality"].value == 1
    assert found["idh"].value == found["both"].value == found["idh_of_sequence"].value == 0.75


def test_shipped_scorer_reads_modalities_and_an_untrained_one_does_not(examples):
    scorer, images = prompts.load_scorer(), np.array(examples.images[:4])
    images[3, 0] = 0  # a missing slice
    untrained = prompts.Scorer(prompts.build_scorer(scorer.model.config).eval(), scorer.tokenizer)
    shares = []
    for one in (scorer, untrained):
        scores = prompts.sentence_scores(one, images)
        assert scores.shape == (4, 4, 14) and np.nanmax(np.abs(scores)) <= 100
        assert np.isnan(scores[3, 0]).all() and np.isfinite(scores[:3]).all()
        shares.append((scores[:3, :, 8:12].argmax(axis=2) == np.arange(4)).mean())
    assert shares[0] > 0.6 > shares[1]


def test_too_long_a_sentence_is_refused(tiny_cohort):
    with pytest.raises(ValueError, match="token"):
        prompts.load_scorer().scores(np.asarray(tiny_cohort.images[0, :1]), ["glioma " * 200])
