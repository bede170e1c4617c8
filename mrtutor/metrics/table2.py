"""Table 2: how alike the modalities of a sequence are, between what is true and what chance gives.

SSIM, NMI and NCC over the six modality pairs of a sequence. *GT* are the slices of held-out patients whose structures
were drawn from, *random* are modalities of different ones of them, drawn at random (the background and the middle of
a brain are alike anyway), *prediction* is the model. Higher is not better: four copies of one picture reach 1.

    NMI(a, b) = 2 · I(a; b) / (H(a) + H(b)), in [0, 1], 64 grey levels

Axes: n sequences · M = 4 modalities · P = 6 pairs · F = 3 figures · H, W image pixels (256).

Source: Kim et al., WACV 2024, §4.3 and Table 2.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.metrics import structural_similarity
from tqdm.auto import tqdm

from mrtutor.metrics.correspondence import FIGURES, ncc, nmi
from mrtutor.metrics.draws import SyntheticSet
from mrtutor.metrics.generation import random_sequences
from mrtutor.metrics.intervals import estimate
from mrtutor.vocabulary import Modality

PAIRS = tuple(combinations(range(len(Modality)), 2))
PAIR_NAMES = tuple(f"{list(Modality)[a]}-{list(Modality)[b]}" for a, b in PAIRS)
REGIONS = ("whole", "brain")
GT, PREDICTION, RANDOM = "gt", "prediction", "random"
FOREGROUND = 0.06  # grey value that the brightest modality of a brain pixel exceeds; background noise stays below


def brain_of(sequence: np.ndarray) -> np.ndarray:
    """Brain of a sequence (4, H, W) in [0, 1], without a mask being given: (H, W) bool.

    The same rule for true and synthetic sequences: a pixel bright in any modality, holes filled.
    """
    return binary_fill_holes(sequence.max(axis=0) > FOREGROUND)


def pair_figures(a: np.ndarray, b: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """SSIM, NMI and NCC of two images (H, W) in [0, 1]: (2, F), whole image and brain only.

    Raises:
        ValueError: a constant image; no brain.
    """
    if not brain.any():
        raise ValueError("Expected a brain, got an empty mask: the sequence is black.")
    whole_ssim, local = structural_similarity(a, b, data_range=1.0, full=True)
    inside = a[brain][None], b[brain][None]
    return np.array([[whole_ssim, nmi(a, b), ncc(a, b)], [local[brain].mean(), nmi(*inside), ncc(*inside)]])


def sequence_figures(sequence: np.ndarray) -> np.ndarray:
    """Figures of every modality pair of one sequence (4, H, W), uint8 or in [0, 1]: (2, P, F)."""
    sequence = sequence / 255.0 if sequence.dtype == np.uint8 else np.asarray(sequence, dtype=np.float64)
    brain = brain_of(sequence)
    return np.stack([pair_figures(sequence[a], sequence[b], brain) for a, b in PAIRS], axis=1)


def table2(
    sets: Mapping[str, SyntheticSet], truth: SyntheticSet, seed: int = 0, *, prediction: str | None = None
) -> dict:
    """Table 2 of one or several models.

    Args:
        sets: model -> set drawn from the structures of the rows of `truth`, row by row.
        truth: `draws.cohort_set` of these rows.
        seed: of the random pairing.
        prediction: which of `sets` is the *prediction*, by default the first; another name for none of them.

    Returns:
        {figure: {"gt" | "prediction" | "random" | further models: {"mean", "sd", "n", "ci95"}}} of the whole image,
        the same under "brain", and "pairs": {figure: {pair: {source: …}}}; "closeness": {figure:
        |prediction - gt| / |gt - random|}, 0 for a perfect model and 1 for chance, if there is a prediction;
        "nmi_formula".

    Raises:
        ValueError: no model; other rows than the truth's.
    """
    if not sets:
        raise ValueError("Expected at least one model's set, got none.")
    for name, drawn in sets.items():
        if not np.array_equal(drawn.rows, truth.rows):
            raise ValueError(f"The set of {name} was drawn from other rows than the truth: use one list of rows.")
    prediction = prediction or next(iter(sets))
    sources = {PREDICTION if name == prediction else name: _figures(s.images, name) for name, s in sets.items()}
    sources[GT] = _repeated(truth)
    mixed, members = random_sequences(truth.images, truth.patients, seed)
    sources[RANDOM] = _figures(mixed, RANDOM)
    patients = dict.fromkeys(sources, truth.patients) | {RANDOM: members}
    regions = {region: _rows(sources, patients, k) for k, region in enumerate(REGIONS)}
    return {
        **regions["whole"],
        "brain": regions["brain"],
        "pairs": {
            name: {
                pair: {s: _entry(v[:, 0, p, f], patients[s]) for s, v in sources.items()}
                for p, pair in enumerate(PAIR_NAMES)
            }
            for f, name in enumerate(FIGURES)
        },
        "closeness": {name: _closeness(rows) for name, rows in regions["whole"].items() if PREDICTION in rows},
        "nmi_formula": "2 I(a; b) / (H(a) + H(b)), 64 grey levels",
    }


def bounds(table: Mapping[str, Mapping]) -> dict[str, dict[str, dict]]:
    """Table 2 as the points of a plot: {figure: {source: {"mean", "sd", "n", "place"}}}.

    `place` is where a source stands between its bounds: 0 at random pairing, 1 at the true sequences.
    """
    plot = {}
    for name in FIGURES:
        low, high = table[name][RANDOM]["mean"], table[name][GT]["mean"]
        span = high - low
        plot[name] = {s: {**e, "place": (e["mean"] - low) / span if span else 0.0} for s, e in table[name].items()}
    return plot


def _figures(sequences: np.ndarray, name: str) -> np.ndarray:
    """(n, 4, H, W) -> (n, 2, P, F)."""
    bar = tqdm(sequences, desc=f"correspondence, {name}", leave=False, disable=len(sequences) < 16)
    return np.stack([sequence_figures(s) for s in bar])


def _repeated(truth: SyntheticSet) -> np.ndarray:
    """Figures of the true sequences; a slice that serves several times is measured once."""
    _, first, inverse = np.unique(truth.rows, return_index=True, return_inverse=True)
    return _figures(truth.images[first], GT)[inverse]


def _rows(sources: Mapping[str, np.ndarray], patients: Mapping[str, np.ndarray], region: int) -> dict:
    return {
        name: {s: _entry(values[:, region, :, f].mean(axis=1), patients[s]) for s, values in sources.items()}
        for f, name in enumerate(FIGURES)
    }


def _entry(values: np.ndarray, patients: np.ndarray) -> dict:
    found = estimate(values, patients, share=False)
    return {"mean": found["value"], "sd": found["sd"], "n": found["n"], "ci95": found["ci95"]}


def _closeness(rows: Mapping[str, Mapping]) -> float:
    """How far the prediction is from the truth, in units of how far chance is."""
    span = abs(rows[GT]["mean"] - rows[RANDOM]["mean"])
    return abs(rows[PREDICTION]["mean"] - rows[GT]["mean"]) / max(span, 1e-12)
