"""How far the simulated slices are from real ones, and how far two simulated patients are from the rest.

Five figures of each modality, computed by the same code for both: grey levels (histogram), contrast of the tissues,
edges, texture (radial power spectrum) and, with the course's feature network, the Fréchet distance. A distance alone
says nothing, above all between a few real patients and hundreds of simulated ones; so each stands beside its *null*: as
many simulated patients, with as many slices of each, drawn at random, against all others.

Axes: n slices · M = 4 modalities · H, W image pixels (256) · R radial frequencies · D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.filters import threshold_multiotsu

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import canny
from mrtutor.metrics.frechet import frechet_distance
from mrtutor.vocabulary import Modality

TISSUES = ("CSF", "grey matter", "white matter")  # from dark to bright in T1
RINGS = 64  # of the power spectrum, up to Nyquist's 0.57 cycles per mm
MARGIN = 4  # px around brain edge and tumour that belong to no tissue
DRAWS = 200  # of the null
NAMES = tuple(str(m) for m in Modality)


def tissue_map(sequence: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A rough map of healthy tissue by two thresholds on T1 (Otsu's, for three classes).

    Real cases come without a tissue segmentation, so both kinds of slices get the same rough one. The order in T1 is
    therefore given; the orders in the other modalities are not.

    Args:
        sequence: (M, H, W) uint8, 0 outside the brain.
        mask: (H, W) tumour labels.

    Returns:
        (H, W) uint8: 0 none, 1 CSF, 2 grey matter, 3 white matter.

    Raises:
        ValueError: too little healthy brain, or T1 constant in it.
    """
    t1 = sequence[list(Modality).index(Modality.T1)]
    brain = ndimage.binary_erosion(ndimage.binary_fill_holes((sequence > 0).any(axis=0)), iterations=MARGIN)
    healthy = brain & ~ndimage.binary_dilation(mask > 0, iterations=MARGIN)
    if len(np.unique(t1[healthy])) < len(TISSUES):
        raise ValueError(f"Expected a slice with healthy brain, got {int(healthy.sum())} px of it: choose another one.")
    return (np.digitize(t1, threshold_multiotsu(t1[healthy], classes=len(TISSUES))) + 1).astype(np.uint8) * healthy


def tissue_levels(sequence: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Median grey level of each tissue in each modality, (M, 3) in [0, 1]; NaN where a tissue is absent."""
    picked = [[image[tissue == label + 1] for label in range(len(TISSUES))] for image in sequence]
    return np.array([[np.median(v) / 255 if v.size else np.nan for v in row] for row in picked])


def contrast_order(levels: np.ndarray) -> dict[str, list[str]]:
    """Tissues from dark to bright by modality, from levels (M, 3)."""
    return {m: [TISSUES[i] for i in np.argsort(row)] for m, row in zip(NAMES, levels, strict=True)}


def radial_power(image: np.ndarray) -> np.ndarray:
    """Radially averaged power spectrum (R,) of a slice (H, W) uint8, as shares that sum to 1.

    The mean of the slice is left out, and no window is needed: the border is black.
    """
    power = np.abs(np.fft.fft2(image / 255.0 - image.mean() / 255.0)) ** 2
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    ring = np.minimum((np.hypot(fy, fx) * 2 * RINGS).astype(int), RINGS)  # beyond Nyquist: the corners, left out
    mean = np.bincount(ring.ravel(), power.ravel())[:RINGS] / np.bincount(ring.ravel())[:RINGS]
    return mean / mean.sum()


@dataclass(frozen=True)
class Profile:
    """What is compared, slice by slice.

    Attributes:
        patient: (n,) number of each slice's patient, from 0.
        histogram: (n, M, 256) grey levels of the brain, as shares that sum to 1.
        spectrum: (n, M, R) `radial_power`.
        tissue: (n, M, 3) `tissue_levels`.
        edges: (n, M) edge pixels, per cent.
        features: (n, M, D), or None without a feature network.
    """

    patient: np.ndarray
    histogram: np.ndarray
    spectrum: np.ndarray
    tissue: np.ndarray
    edges: np.ndarray
    features: np.ndarray | None = None

    @property
    def slices(self) -> np.ndarray:
        """Slices of each patient."""
        return np.bincount(self.patient)

    def take(self, rows: np.ndarray) -> "Profile":
        """Some of the slices."""
        return Profile(*(None if values is None else values[rows] for values in vars(self).values()))


def profile(
    cohort: Cohort, subjects: Sequence[str] | None = None, features: Callable[[np.ndarray], np.ndarray] | None = None
) -> Profile:
    """Figures of a cohort's patients.

    Args:
        cohort: simulated or real.
        subjects: some of its patients; default all.
        features: (n, M, H, W) uint8 -> (n, M, D), such as `mrtutor.metrics.features.Features.of`.

    Raises:
        ValueError: no such patient; a slice without healthy brain.
    """
    rows = cohort.table.groupby("subject_id", sort=False).indices
    chosen = list(rows) if subjects is None else list(subjects)
    if unknown := [name for name in chosen if name not in rows]:
        raise ValueError(f"{unknown[0]} is no patient of the cohort: expected one of {', '.join(list(rows)[:3])}, ….")
    patient = np.repeat(np.arange(len(chosen)), [len(rows[name]) for name in chosen])
    slices = [_slice(np.asarray(cohort.images[row]), cohort.masks[row]) for name in chosen for row in rows[name]]
    vectors = features and np.concatenate([features(np.asarray(cohort.images[rows[name]])) for name in chosen])
    return Profile(patient, *(np.stack(values) for values in zip(*slices, strict=True)), vectors)


def _slice(sequence: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Histogram, spectrum, tissue levels and edges of one slice (M, H, W)."""
    brain = (sequence > 0).any(axis=0)
    histogram = np.stack([np.bincount(image[brain], minlength=256) / brain.sum() for image in sequence])
    spectrum = np.stack([radial_power(image) for image in sequence])
    edges = np.array([100 * (canny(image) > 0).mean() for image in sequence])
    return histogram, spectrum, tissue_levels(sequence, tissue_map(sequence, mask)), edges


def histogram_distance(a: Profile, b: Profile) -> np.ndarray:
    """First Wasserstein distance of the mean histograms, (M,) in grey levels of [0, 1]."""
    grey = np.arange(256) / 255
    pairs = zip(a.histogram.mean(axis=0), b.histogram.mean(axis=0), strict=True)
    return np.array([wasserstein_distance(grey, grey, one, two) for one, two in pairs])


def spectrum_distance(a: Profile, b: Profile) -> np.ndarray:
    """Root mean square difference of the mean spectra over the rings, (M,) in dB."""
    decibel = [10 * np.log10(p.spectrum.mean(axis=0) + 1e-12) for p in (a, b)]
    return np.sqrt(np.square(decibel[0] - decibel[1]).mean(axis=1))


def tissue_distance(a: Profile, b: Profile) -> np.ndarray:
    """Mean difference of the tissues' levels, (M,) in grey levels of [0, 1]."""
    return np.abs(np.nanmean(a.tissue, axis=0) - np.nanmean(b.tissue, axis=0)).mean(axis=1)


def edge_distance(a: Profile, b: Profile) -> np.ndarray:
    """Difference of the mean share of edge pixels, (M,) in percentage points."""
    return np.abs(a.edges.mean(axis=0) - b.edges.mean(axis=0))


def feature_distance(a: Profile, b: Profile) -> np.ndarray:
    """Fréchet distance of the features (FD-MR), (M,); biased upwards for few slices, so read it beside its null."""
    return np.array([frechet_distance(a.features[:, m], b.features[:, m]) for m in range(a.features.shape[1])])


DISTANCES = {
    "histogram": histogram_distance,
    "tissue": tissue_distance,
    "edges": edge_distance,
    "spectrum_db": spectrum_distance,
    "fd_mr": feature_distance,
}


def compare(simulated: Profile, real: Profile, *, draws: int = DRAWS, seed: int = 0) -> dict:
    """Distances between real and simulated patients, each with its null.

    Returns:
        {"patients": {"simulated", "real"}, "slices" of a patient, "draws", "seed", "order", "levels" and "edge_pixels"
        likewise for both, figure: {modality: {"value", "null_median", "null95", "outside"}}}. ``null95`` is the 95th
        percentile of the distances of as many random simulated patients to the rest; ``outside``: the real ones are
        farther than that. Of each of the few patients, real or simulated, as many slices are drawn as every real one
        and half of the simulated ones have: distances grow as slices get fewer, most of all the Fréchet distance.

    Raises:
        ValueError: no real patients, or not more than twice as many simulated ones.
    """
    count, people = len(real.slices), len(simulated.slices)
    if count < 1 or people <= 2 * count:
        raise ValueError(
            f"Expected real patients and more than twice as many simulated ones, got {count} and {people}: "
            "simulate more."
        )
    each = int(min(real.slices.min(), np.median(simulated.slices)))
    rich = np.flatnonzero(simulated.slices >= each)
    rng = np.random.default_rng(seed)
    both = {"simulated": simulated, "real": real}
    seen = all(p.features is not None for p in both.values())
    measured = {name: distance for name, distance in DISTANCES.items() if seen or name != "fd_mr"}

    def some(of: Profile, patients: Sequence[int]) -> Profile:
        rows = [rng.choice(np.flatnonzero(of.patient == p), each, replace=False) for p in patients]
        return of.take(np.concatenate(rows))

    def distances(few: Profile, others: Profile) -> np.ndarray:
        return np.stack([distance(few, others) for distance in measured.values()])  # (figures, M)

    value, null = distances(some(real, range(count)), simulated), []
    for _ in range(draws):
        few = rng.choice(rich, count, replace=False)
        null.append(distances(some(simulated, few), simulated.take(~np.isin(simulated.patient, few))))
    median, high = np.percentile(null, [50, 95], axis=0)
    report = {
        "patients": {"simulated": people, "real": count},
        "slices": each,
        "draws": draws,
        "seed": seed,
        "order": {n: contrast_order(np.nanmean(p.tissue, axis=0)) for n, p in both.items()},
        "levels": {n: _levels(p) for n, p in both.items()},
        "edge_pixels": {n: dict(zip(NAMES, p.edges.mean(axis=0).tolist(), strict=True)) for n, p in both.items()},
    }
    for name, *rows in zip(measured, value.tolist(), median.tolist(), high.tolist(), strict=True):
        report[name] = {
            m: {"value": v, "null_median": lo, "null95": hi, "outside": v > hi}
            for m, v, lo, hi in zip(NAMES, *rows, strict=True)
        }
    return report


def _levels(one: Profile) -> dict[str, dict[str, float]]:
    """Mean grey level of each tissue by modality."""
    means = np.nanmean(one.tissue, axis=0).tolist()
    return {m: dict(zip(TISSUES, row, strict=True)) for m, row in zip(NAMES, means, strict=True)}
