"""Figures of generated sequences: prompt, structure, correspondence, memory.

Axes: n sequences · M = 4 modalities in the order of `Modality` · H, W image pixels. Images are floats in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.compose import Ellipse, brain_hull, compose_structure, ellipse_mask
from mrtutor.data.paraphrases import paraphrases
from mrtutor.data.structure import canny
from mrtutor.metrics.correspondence import FIGURES, sequence_correspondence
from mrtutor.metrics.edges import edge_f1
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.memorisation import nearest_distance
from mrtutor.metrics.reader import Reader
from mrtutor.training.validation import spread
from mrtutor.vocabulary import IDH, Modality, prompt


@dataclass(frozen=True)
class Cases:
    """Held-out cases whose structures are drawn from; the edges' modality goes round FLAIR, T1, T1Gd, T2."""

    rows: np.ndarray  # (n,) rows of the cohort
    edges_of: np.ndarray  # (n,) index of the modality that gave the edges
    structures: np.ndarray  # (n, H, W) bool
    images: np.ndarray  # (n, 4, H, W) the true slices
    masks: np.ndarray  # (n, H, W) tumour labels
    idh: list[IDH]
    patients: np.ndarray  # (n,) subject ids: intervals resample patients

    def __len__(self) -> int:
        return len(self.rows)


def held_out_cases(cohort: Cohort, count: int) -> Cases:
    """`count` slices spread evenly over the patients of the test split."""
    rows = spread(cohort.rows("test"), count)
    images = cohort.images[rows].astype(np.float32) / 255
    edges_of = np.arange(len(rows)) % len(Modality)
    structures = np.stack([canny(cohort.images[r, m]) > 0 for r, m in zip(rows, edges_of, strict=True)])
    table = cohort.table.iloc[rows]
    idh = [IDH(word) for word in table["idh"]]
    patients = table["subject_id"].to_numpy()
    return Cases(rows, edges_of, structures, images, np.asarray(cohort.masks[rows]), idh, patients)


def generate(pipeline, cases: Cases, *, seed: int = 0, wording: str = "canonical", **options) -> np.ndarray:
    """One sequence per case, (n, 4, H, W), with the case's structure and IDH type.

    Args:
        wording: "canonical", or "held_out" for paraphrases, aliases and word orders unseen in training.
        options: passed on to the pipeline (steps, guidance scale, …).
    """
    rng = np.random.default_rng(seed)
    pipeline.set_progress_bar_config(disable=True)
    sequences = []
    for i in tqdm(range(len(cases)), desc=f"sequences, {wording}"):
        sentences = [_sentence(m, cases.idh[i], wording, rng) for m in Modality]
        generators = [torch.Generator().manual_seed(seed * 100_003 + i) for _ in Modality]  # the same noise in all
        images = pipeline(sentences, cases.structures[i], generator=generators, **options).images
        sequences.append(images.cpu().numpy())
    return np.stack(sequences)


def _sentence(modality: Modality, idh: IDH, wording: str, rng: np.random.Generator) -> str:
    if wording == "canonical":
        return prompt(modality, idh)
    choices = paraphrases(modality, idh, split=wording)
    return choices[rng.integers(len(choices))]


def modality_accuracy(reader: Reader, sequences: np.ndarray, patients: np.ndarray) -> dict:
    """Share of slices whose modality the reader names right."""
    read = torch.stack([reader.read_modality(torch.from_numpy(s)) for s in sequences])
    right = (read == torch.arange(len(Modality))).float().numpy()
    return estimate(right.ravel(), np.repeat(patients, len(Modality)))


def idh_accuracy(reader: Reader, sequences: np.ndarray, idh: list[IDH], patients: np.ndarray) -> dict:
    """Share of sequences whose IDH type, as asked for, the reader names."""
    read = torch.cat([reader.read_idh(torch.from_numpy(s)[None]) for s in sequences])
    right = [list(IDH)[r] is wanted for r, wanted in zip(read.tolist(), idh, strict=True)]
    return estimate(np.array(right, dtype=float), patients)


def structure_f1(structures: np.ndarray, edges_of: np.ndarray, sequences: np.ndarray, patients: np.ndarray) -> dict:
    """Edge F1 between each structure and the edges of the *other* three modalities of its sequence.

    The modality that gave the edges is left out everywhere, so that the cohort's own figure (attainable), the
    reconstruction's and the generator's ask the same question.
    """
    values = [
        np.mean([edge_f1(canny(image), wanted) for m, image in enumerate(sequence) if m != source])
        for wanted, source, sequence in zip(structures, edges_of, sequences, strict=True)
    ]
    return estimate(values, patients)


def of_another(patients: np.ndarray) -> np.ndarray:
    """For each of n sequences the index of one of another patient, about half the set further on: (n,) -> (n,).

    Raises:
        ValueError: a single patient.
    """
    n = len(patients)
    if len(np.unique(patients)) < 2:
        raise ValueError(f"Expected structures of two patients at least, got only {patients[0]}'s: take more rows.")
    order = (np.arange(n)[:, None] + np.arange(n)[None] + n // 2) % n
    return order[np.arange(n), (patients[order] != patients[:, None]).argmax(axis=1)]


def correspondence(sequences: np.ndarray, patients: np.ndarray) -> dict[str, dict]:
    """SSIM, NMI, NCC over the six modality pairs, each as an estimate over sequences."""
    each = [sequence_correspondence(s) for s in sequences]
    return {name: estimate([e[name] for e in each], patients) for name in FIGURES}


def random_sequences(images: np.ndarray, patients: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences whose modalities are of different patients, drawn at random: the lower bound of Table 2.

    Args:
        images: (n, M, H, W).
        patients: (n,) whose each is. With fewer than M of them one has to serve twice.

    Returns:
        sequences (n, M, H, W), and (n, M) the patients in each: what `estimate` takes for groups.
    """
    rng, (people, of) = np.random.default_rng(seed), np.unique(patients, return_inverse=True)
    rows_of, modalities = [np.flatnonzero(of == k) for k in range(len(people))], range(images.shape[1])
    members = np.stack([np.resize(rng.permutation(len(people)), len(modalities)) for _ in images])
    rows = np.array([[rng.choice(rows_of[k]) for k in row] for row in members])
    return np.stack([images[rows[:, m], m] for m in modalities], axis=1), members


def memory(cohort: Cohort, sequences: np.ndarray, cases: Cases) -> dict[str, dict]:
    """Distance to the nearest training slice of the same modality: generated beside held-out."""
    train = cohort.rows("train")
    figures: dict[str, list] = {"generated": [], "held_out": []}
    for m in range(len(Modality)):
        references = cohort.images[train, m]
        figures["generated"].append(nearest_distance(sequences[:, m], references)[0])
        figures["held_out"].append(nearest_distance(cases.images[:, m], references)[0])
    patients = np.tile(cases.patients, len(Modality))
    return {name: estimate(np.concatenate(values), patients) for name, values in figures.items()}


@dataclass(frozen=True)
class MovedTumour:
    """One anatomy with a tumour drawn on its left and one drawn on its right, mirror images of each other."""

    left: np.ndarray  # (H, W) uint8, structure map
    right: np.ndarray
    left_area: np.ndarray  # (H, W) bool, inside the drawn outline
    right_area: np.ndarray


def moved_tumour(edges: np.ndarray, tumour: np.ndarray, width: float = 44.0, height: float = 36.0) -> MovedTumour:
    """Take the anatomy's own tumour out and draw an ellipse in, once on either side of its middle.

    Args:
        edges: (H, W), any non-zero value an edge.
        tumour: (H, W), any non-zero value tumour.
        width, height: axes of the ellipse in pixels.
    """
    rows, columns = np.nonzero(brain_hull(edges))
    y, middle = float(rows.mean()) - 8, float(columns.mean())
    offset = 0.25 * np.ptp(columns)
    ellipses = [Ellipse(middle + side * offset, y, width, height) for side in (-1, 1)]
    maps = [compose_structure(edges, tumour, ellipse) for ellipse in ellipses]
    return MovedTumour(*maps, *(ellipse_mask(ellipse) for ellipse in ellipses))


def tumour_movement(pipeline, cases: Cases, *, count: int = 32, seed: int = 0) -> dict[str, dict]:
    """Does a tumour drawn elsewhere in the structure move the tumour? FLAIR and T2, same noise, same sentence.

    For each case the brightness inside the left area, minus that inside the right one, is taken from the picture with
    the tumour on the left and from the picture with the tumour on the right; their difference, halved, is by how much
    a tumour's outline brightens what it encloses.

    Returns:
        brightening: mean of that half difference, image units (0 to 1); 0 if the outline moved nothing.
        moved: share of the cases in which it is positive, a tie counting half; 0.5 by chance.
        cohort: how much brighter than the rest of the brain a true tumour is, in the same slices: the aim.
    """
    chosen = spread(np.arange(len(cases)), count)
    bright = [list(Modality).index(m) for m in (Modality.FLAIR, Modality.T2)]
    gain, aim = [], []
    for i in chosen:
        pair = moved_tumour(cases.structures[i], cases.masks[i])
        contrast = []
        for structure in (pair.left, pair.right):
            drawn = pipeline.sequence(cases.idh[i], structure, seed=seed + int(i), modalities=("FLAIR", "T2"))
            picture = torch.stack(list(drawn.values())).numpy().mean(axis=0)
            contrast.append(picture[pair.left_area].mean() - picture[pair.right_area].mean())
        gain.append((contrast[0] - contrast[1]) / 2)
        true, inside = cases.images[i, bright].mean(axis=0), cases.masks[i] > 0
        aim.append(true[inside].mean() - true[(true > 0) & ~inside].mean())
    gain, patients = np.array(gain), cases.patients[chosen]
    return {
        "brightening": estimate(gain, patients),
        "moved": estimate((np.sign(gain) + 1) / 2, patients),
        "cohort": estimate(aim, patients),
    }
