"""Table 3: does a slice show what its sentence says?

A CLIP score alone has no null: 30 may be much or nothing. So beside the score of the right sentence stands that of the
wrong ones, beside both the same of held-out cohort slices, and the question that needs no scale: which of the eight
prompts is nearest? `prompt_against_mask` sets the sentence against the structure and asks the independent reader.

Axes: n sequences · M = 4 modalities · S = 14 sentences (8 full, 4 of a modality, 2 of a type) · H, W image pixels.

Source: Kim et al., WACV 2024, §4.3 and Table 3 (phrases, CLIP score × 100).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mrtutor.data.paraphrases import canonical_prompts
from mrtutor.metrics.draws import SyntheticSet
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.reader import Reader
from mrtutor.vocabulary import IDH, Modality

PHRASES = ("full", "modality", "idh")
TYPES, MODALITIES = list(IDH), list(Modality)
COHORT = "cohort"
READ_AT_ONCE = 16  # sequences


class Judge(Protocol):
    """What is asked of a CLIP: `mrtutor.metrics.clip_score.Scorer`, or a stand-in in a test."""

    def embed_images(self, slices: np.ndarray) -> Tensor:
        """(n, H, W) -> unit vectors (n, D)."""

    def embed_sentences(self, sentences: list[str]) -> Tensor:
        """S sentences -> unit vectors (S, D)."""


def phrases() -> list[str]:
    """The 14 sentences: 8 full (number 2·m + i), 4 modality phrases, 2 IDH phrases, in the paper's words."""
    modality = [f"a {m} modality MR image" for m in Modality]
    return [*canonical_prompts(), *modality, *(f"type of IDH {i} glioma" for i in IDH)]


def sentence_scores(judge: Judge, sequences: np.ndarray) -> np.ndarray:
    """CLIP scores, 100 × cosine, of every slice (n, 4, H, W) with every one of `phrases()`: (n, 4, 14)."""
    sentences = judge.embed_sentences(phrases())
    return np.stack([(100 * judge.embed_images(sequences[:, m]) @ sentences.T).numpy() for m in range(4)], axis=1)


def true_phrases(idh: list[IDH]) -> np.ndarray:
    """Which of `phrases()` is true of which slice, (n, 4, 14) bool."""
    of_type = np.array([TYPES.index(word) for word in idh])[:, None]  # (n, 1)
    m = np.arange(len(MODALITIES))[None]
    true = np.zeros((len(idh), len(MODALITIES), 14), bool)
    for places in (len(TYPES) * m + of_type, 8 + m + 0 * of_type, 12 + of_type + 0 * m):
        np.put_along_axis(true, places[..., None], True, axis=2)
    return true


def phrase_scores(scores: np.ndarray, idh: list[IDH], patients: np.ndarray) -> dict:
    """Mean score of the right sentence beside that of the wrong ones of the same kind.

    Args:
        scores: (n, 4, 14), see `sentence_scores`.

    Returns:
        {phrase: {modality: {idh: {"matched", "mismatched"}}}}, each an estimate; and "summary": {phrase: {"matched",
        "mismatched", "gap"}} over all slices.
    """
    true, words = true_phrases(idh), np.array([str(word) for word in idh])
    table: dict = {name: {} for name in PHRASES} | {"summary": {}}
    for phrase, kind in zip(PHRASES, (slice(0, 8), slice(8, 12), slice(12, 14)), strict=True):
        right = true[..., kind]
        matched = (scores[..., kind] * right).sum(axis=2)  # one sentence of a kind is right: (n, 4)
        mismatched = (scores[..., kind] * ~right).sum(axis=2) / (right.shape[2] - 1)
        for m, modality in enumerate(MODALITIES):
            table[phrase][str(modality)] = {
                word: {
                    "matched": estimate(matched[words == word, m], patients[words == word]),
                    "mismatched": estimate(mismatched[words == word, m], patients[words == word]),
                }
                for word in dict.fromkeys(words.tolist())
            }
        pairs = {"matched": matched, "mismatched": mismatched, "gap": matched - mismatched}
        by_slice = np.repeat(patients, len(MODALITIES))
        table["summary"][phrase] = {name: estimate(values.ravel(), by_slice) for name, values in pairs.items()}
    return table


def retrieval(scores: np.ndarray, idh: list[IDH], patients: np.ndarray) -> dict:
    """How often the nearest of the eight full prompts is right.

    Args:
        scores: (n, 4, 14), see `sentence_scores`.

    Returns:
        {"modality", "idh", "both"}: estimates over slices (chance 1/4, 1/2, 1/8); "idh_of_sequence": over sequences,
        by the sum over its four slices, each with its own modality's prompts (chance 1/2); "confusion": 8 × 8 counts,
        row the prompt asked for, column the nearest; "by_modality": {modality: {"modality", "idh"}}.
    """
    of_type = np.array([TYPES.index(word) for word in idh])
    nearest = scores[..., :8].argmax(axis=2)  # (n, 4)
    right = {"modality": nearest // 2 == np.arange(4), "idh": nearest % 2 == of_type[:, None]}
    right["both"] = right["modality"] & right["idh"]
    by_slice = np.repeat(patients, len(MODALITIES))
    shares: dict = {name: estimate(values.ravel().astype(float), by_slice) for name, values in right.items()}
    by_sequence = own_modality_scores(scores).argmax(axis=1) == of_type
    shares["idh_of_sequence"] = estimate(by_sequence.astype(float), patients)
    asked = 2 * np.arange(4) + of_type[:, None]
    shares["confusion"] = np.bincount((8 * asked + nearest).ravel(), minlength=64).reshape(8, 8).tolist()
    shares["by_modality"] = {
        str(modality): {name: estimate(right[name][:, m].astype(float), patients) for name in ("modality", "idh")}
        for m, modality in enumerate(MODALITIES)
    }
    return shares


def table3(sets: Mapping[str, SyntheticSet], truth: SyntheticSet, judge: Judge, name: str) -> dict:
    """Table 3 of one or several models; the first of `sets` stands at the top.

    Args:
        sets: model -> its set.
        truth: held-out cohort slices (`draws.cohort_set`), the ceiling.
        judge: which CLIP scores.
        name: of the judge, for the record.

    Returns:
        `phrase_scores` of the first model, "retrieval": {model | "cohort": see `retrieval`}, "models": {model |
        "cohort": `phrase_scores`}, "judge": name.

    Raises:
        ValueError: no model.
    """
    if not sets:
        raise ValueError("Expected at least one model's set, got none.")
    everything = {**sets, COHORT: truth}
    scores = {key: sentence_scores(judge, s.images) for key, s in everything.items()}
    tables = {key: phrase_scores(scores[key], s.idh, s.patients) for key, s in everything.items()}
    found = {key: retrieval(scores[key], s.idh, s.patients) for key, s in everything.items()}
    return {**tables[next(iter(sets))], "retrieval": found, "models": tables, "judge": name}


@dataclass(frozen=True)
class JudgeReader:
    """A CLIP in the place of the independent reader: of two types the one whose sentences fit the four slices better.

    The shipped judge reads a type worse than `mrtutor.metrics.reader`, but it comes with the course.
    """

    judge: Judge

    def read_idh(self, sequences: Tensor) -> Tensor:
        """Sequences (n, 4, H, W) in [0, 1] -> index in `IDH`, (n,)."""
        return torch.from_numpy(own_modality_scores(sentence_scores(self.judge, sequences.numpy())).argmax(axis=1))


def own_modality_scores(scores: np.ndarray) -> np.ndarray:
    """Scores (n, 4, 14) -> (n, 2): for each type the sum over the four slices, each with its own modality's prompt."""
    return np.stack([scores[:, m, 2 * m : 2 * m + 2] for m in range(len(MODALITIES))]).sum(axis=0)


def read_types(reader: Reader | JudgeReader, sequences: np.ndarray) -> np.ndarray:
    """What the independent reader says of sequences (n, 4, H, W) uint8: (n,) bool, True for wild."""
    parts = [sequences[i : i + READ_AT_ONCE] for i in range(0, len(sequences), READ_AT_ONCE)]
    read = torch.cat([reader.read_idh(torch.from_numpy(part).float() / 255) for part in parts])
    return (read == TYPES.index(IDH.WILD)).numpy()


def prompt_against_mask(
    reader: Reader | JudgeReader,
    own: Mapping[str, SyntheticSet],
    swapped: Mapping[str, SyntheticSet],
    truth: SyntheticSet,
) -> dict:
    """Structures of one type with the word of the other: whom does the picture follow?

    Args:
        own: model -> set where structure and word agree. A model that is not in `swapped` uses no structure.
        swapped: model -> set of the same first rows with the other word.
        truth: held-out cohort slices of these rows.

    Returns:
        model -> {"wild_read": {mask: {word: share that the reader calls wild}}, "follows_prompt" and "follows_mask":
        shares where the two disagree (they add up to 1), "agreeing": share read right where they agree, "word_effect":
        how much likelier wild is read when the word turns from mutant to wild and nothing else (1 obeys, 0 is
        deaf)}; without structure {"wild_read": {"none": {word: …}}, "follows_prompt"}. "cohort": the reader's own
        accuracy, the ceiling.

    Raises:
        ValueError: sets whose rows differ.
    """
    wild = np.array([word is IDH.WILD for word in truth.idh])
    right = read_types(reader, truth.images) == wild
    report: dict = {COHORT: {"agreeing": estimate(right.astype(float), truth.patients)}}
    for name, drawn in own.items():
        said = read_types(reader, drawn.images)
        word = np.array([w is IDH.WILD for w in drawn.idh])
        if name not in swapped:
            by_word = {str(t): _share(said, word == (t is IDH.WILD), drawn.patients) for t in IDH}
            follows = estimate((said == word).astype(float), drawn.patients)
            report[name] = {"wild_read": {"none": by_word}, "follows_prompt": follows}
            continue
        report[name] = _against(said, drawn, read_types(reader, swapped[name].images), swapped[name])
    return report


def _against(said: np.ndarray, own: SyntheticSet, said_swapped: np.ndarray, swapped: SyntheticSet) -> dict:
    n = len(swapped)
    if not np.array_equal(own.rows[:n], swapped.rows):
        raise ValueError(f"Sets of {own.name} with own and swapped words must begin with the same rows.")
    said, patients = said[:n], swapped.patients
    mask = np.array([w is IDH.WILD for w in own.idh[:n]])  # the type of the patient whose structure it is
    with_wild, with_mutant = np.where(mask, said, said_swapped), np.where(mask, said_swapped, said)
    readings = {IDH.MUTANT: with_mutant, IDH.WILD: with_wild}
    cells = {str(m): {str(w): _share(readings[w], mask == (m is IDH.WILD), patients) for w in IDH} for m in IDH}
    follows = (said_swapped != mask).astype(float)
    return {
        "wild_read": cells,
        "follows_prompt": estimate(follows, patients),
        "follows_mask": estimate(1 - follows, patients),
        "agreeing": estimate((said == mask).astype(float), patients),
        "word_effect": estimate(with_wild.astype(float) - with_mutant.astype(float), patients),
    }


def _share(said: np.ndarray, where: np.ndarray, patients: np.ndarray) -> dict:
    return estimate(said[where].astype(float), patients[where])
