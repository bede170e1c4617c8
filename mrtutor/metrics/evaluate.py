"""Everything that is measured of a set of drawn sequences: `mrtutor evaluate`, and a model's rows of each table.

Real and simulated patients are measured apart. Next to the model: "truth", the held-out slices whose edges were drawn
from (the ceiling), and "random", their modalities mixed over patients (the null).
"""

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mrtutor.data.cohort import Cohort
from mrtutor.figures import Figure
from mrtutor.metrics import distances, sequence
from mrtutor.metrics.evaluators import Reader, healthy_medians, median_reader, paint_over
from mrtutor.metrics.intervals import Estimate, estimate
from mrtutor.metrics.prompts import Scorer, clip_scores, retrieval, sentence_scores
from mrtutor.vocabulary import IDH, Modality

if TYPE_CHECKING:
    from mrtutor.pipeline.draw import SampleSet

SECTIONS = ("quality", "structure", "words")  # methods of `Part`
Measured = Iterator[tuple[str, str, Estimate]]  # metric, group, estimate


def estimates(metric: str, values: np.ndarray, patients: np.ndarray, names=Modality, answers=False) -> Measured:
    """Estimates of each column of values (n, names), and of all; NaN is left out."""
    columns = {str(name): values[:, [i]] for i, name in enumerate(names)} if values.ndim > 1 else {}
    for group, column in (columns | {"mean": values.reshape(len(values), -1)}).items():
        there = np.isfinite(column)
        if there.any():
            kept = column[there].astype(bool if answers else float)
            yield metric, group, estimate(kept, np.broadcast_to(patients[:, None], there.shape)[there])


@dataclass(frozen=True)
class Part:
    """Sequences (n, 4, H, W) uint8 of one kind of patients; a method for each of `SECTIONS`."""

    images: np.ndarray
    truth: np.ndarray  # the held-out slices that gave the edges
    table: pd.DataFrame  # of the sample set: row, patient, idh, edges_of
    cohort: Cohort
    training: np.ndarray  # rows of training patients of the same kind
    reference: np.ndarray | None  # features of these
    features: distances.Features | None
    reader: Reader | None
    scorer: Scorer | None

    def quality(self) -> Measured:
        """Copies; FD-MR and KID to the training slices; told from the held-out slices (these from training slices)."""
        patients, people = self.table["patient"].to_numpy(), self.cohort.table["patient"].to_numpy()[self.training]
        near = distances.near_training(self.images, self.truth, self.cohort.images[self.training])
        yield from estimates("near_training", near, patients, answers=True)
        if self.reference is None:
            return
        drawn = self.features(self.images)
        for metric, distance in (("fd_mr", "frechet"), ("kid", "kid")):
            found = distances.distance_estimate(distance, drawn, self.reference, patients, people)
            yield from ((metric, group, value) for group, value in found.items())
        others, whose = self.features(self.truth), patients
        if self.images is self.truth:
            chosen = np.random.default_rng(0).permutation(len(people))[: len(drawn)]
            others, whose = self.reference[chosen], people[chosen]
        if len(others) == len(drawn) and len(set(whose)) > 1:
            yield "told_apart", "mean", distances.tell_by_features(drawn, others, patients, whose)

    def structure(self) -> Measured:
        """Modalities with each other, with the edge map and the tumour, and with the true slice inside the brain."""
        rows, brains = self.table["row"].to_numpy(), np.stack([sequence.brain_of(images) for images in self.truth])
        asked = zip(self.images, rows, self.table["edges_of"], strict=True)
        found = pd.DataFrame([sequence.sequence_correspondence(images) for images in self.images]).to_dict("series")
        found["edge_f1"] = np.array([sequence.structure_f1(x, self.cohort.structure(row, m), m) for x, row, m in asked])
        found["truth_ncc"] = sequence.each(sequence.ncc, self.images, self.truth, brains)
        found["sharpness_ratio"] = distances.sharpness(self.images) / distances.sharpness(self.truth)
        found["lesion_contrast"] = distances.lesion_contrast(self.images, self.cohort.masks[rows])
        for metric, values in found.items():
            yield from estimates(metric, np.asarray(values), self.table["patient"].to_numpy())

    def words(self) -> Measured:
        """What readers see, also with the tumour painted over or by brightness alone; CLIP score; retrieval."""
        patients, idh = self.table["patient"].to_numpy(), self.table["idh"].to_numpy()
        masks, said = self.cohort.masks[self.table["row"]], {}
        if self.reader is not None:
            read = np.stack([self.reader.read_modality(self.images[:, m]) for m in range(len(Modality))], axis=1)
            right = np.where(sequence.present(self.images), read == np.arange(len(Modality)), np.nan)
            yield from estimates("modality_accuracy", right, patients, answers=True)
            said["idh_accuracy"] = self.reader.read_idh(self.images)
            said["idh_accuracy_painted_over"] = self.reader.read_idh(paint_over(self.images, masks))
        if (by_median := median_reader(self.cohort, self.training)) is not None:
            said["idh_accuracy_by_median"] = by_median.predict(healthy_medians(self.images, masks))
        for metric, answer in said.items():
            right = [np.where(idh == word, answer == number, np.nan) for number, word in enumerate(IDH)]
            yield from estimates(metric, np.stack(right, axis=1), patients, IDH, answers=True)
        if self.scorer is not None:
            scores = sentence_scores(self.scorer, self.images)
            for phrase, (right, wrong) in clip_scores(scores, idh).items():
                yield from estimates(f"clip_{phrase}", right, patients)
                yield from estimates(f"clip_{phrase}_gap", right - wrong, patients)
            found = retrieval(scores, idh, patients) if (idh != "").any() else {}
            yield from ((f"retrieval_{name}", "mean", value) for name, value in found.items())


def evaluate(
    sample_set: "SampleSet",
    cohort: Cohort,
    model: str,
    *,
    features: distances.Features | None = None,
    reader: Reader | None = None,
    scorer: Scorer | None = None,
    sections: Collection[str] = SECTIONS,
    references: bool = True,
    **about: str,
) -> list[Figure]:
    """Measure sequences that `draw_sets` drew from the edges of a cohort's held-out patients; real ones come first.

    What needs an evaluator that is None is left out; `references` are truth and random; `about` is for the figures.
    """
    if sample_set.about.get("cohort_key", cohort.key) != cohort.key:
        raise ValueError(f"Expected the cohort that the set was drawn from, got {cohort.path}.")
    about = {"experiment": "tables", "seed": sample_set.about.get("seed", 0), **about}
    simulated, figures = cohort.table["source"].to_numpy()[sample_set.table["row"]] == "simulated", []
    for kind in sorted({"simulated" if one else "real" for one in simulated}):
        table = sample_set.table[simulated == (kind == "simulated")]
        if table["patient"].nunique() < 2:
            warnings.warn(f"Only one {kind} patient: with fewer than two nothing is measured.", stacklevel=2)
            continue
        truth, training = np.asarray(cohort.images[table["row"]]), cohort.rows("train", simulated=kind == "simulated")
        known = features(cohort.images[training]) if features and len(training) else None
        part = Part(sample_set.images[table["number"]], truth, table, cohort, training, known, features, reader, scorer)
        mixed = sequence.random_sequences(truth, table["patient"].to_numpy())
        stacks = {model: part.images} | ({"truth": truth, "random": mixed} if references else {})
        for name, images in stacks.items():
            found = [row for section in sections for row in getattr(replace(part, images=images), section)()]
            figures += [Figure(model=name, metric=m, group=g, cohort=kind, **vars(e), **about) for m, g, e in found]
    return figures


def as_table(figures: Collection[Figure]) -> pd.DataFrame:
    """Figures as a table to read: rows (cohort, metric, group), columns the models."""
    cells = {(f.cohort, f.metric, f.group, f.model): str(f) for f in figures}
    return pd.Series(cells).rename_axis(["cohort", "metric", "group", "model"]).unstack(sort=False).fillna("")
