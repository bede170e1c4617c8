"""How far the simulated slices are from real ones, and how far two simulated patients are from the rest.

Five figures of each modality, computed by the same code for both: grey levels (histogram), contrast of the tissues,
edges, texture (radial power spectrum) and, with the course's feature network, the Fréchet distance. A distance alone
says nothing, above all between a few real patients and hundreds of simulated ones; so each stands beside its *null*: as
many simulated patients, drawn at random, against all others.

Axes: P patients · n slices · M = 4 modalities · H, W image pixels (256) · R radial frequencies · D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.filters import threshold_multiotsu

from mrtutor.data.cohort import Cohort
from mrtutor.data.export import PIXEL_MM
from mrtutor.data.structure import canny
from mrtutor.metrics.frechet import frechet_distance
from mrtutor.vocabulary import Modality

TISSUES = ("CSF", "grey matter", "white matter")  # from dark to bright in T1
EXPECTED_ORDER = {  # of the tissues, from dark to bright: any textbook of neuroradiology
    Modality.FLAIR: ("CSF", "white matter", "grey matter"),
    Modality.T1: ("CSF", "grey matter", "white matter"),
    Modality.T1GD: ("CSF", "grey matter", "white matter"),
    Modality.T2: ("white matter", "grey matter", "CSF"),
}
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


def ring_frequencies() -> np.ndarray:
    """Centres of the rings of `radial_power`, (R,) in cycles per mm."""
    return (np.arange(RINGS) + 0.5) / (2 * RINGS) / PIXEL_MM


@dataclass(frozen=True)
class Profile:
    """What is compared, patient by patient.

    Attributes:
        histogram: (P, M, 256) grey levels of the brain, as shares that sum to 1.
        spectrum: (P, M, R) mean of `radial_power`.
        tissue: (P, M, 3) mean of `tissue_levels`.
        edges: (P, M) edge pixels of a slice, per cent.
        features: per patient (n, M, D), or empty without a feature network.
    """

    histogram: np.ndarray
    spectrum: np.ndarray
    tissue: np.ndarray
    edges: np.ndarray
    features: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.edges)

    def take(self, patients: Sequence[int]) -> "Profile":
        """Some of the patients."""
        chosen = list(patients)
        arrays = (self.histogram, self.spectrum, self.tissue, self.edges)
        return Profile(*(a[chosen] for a in arrays), tuple(self.features[i] for i in chosen if self.features))


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
    parts = [_patient(np.asarray(cohort.images[rows[name]]), np.asarray(cohort.masks[rows[name]])) for name in chosen]
    vectors = tuple(features(np.asarray(cohort.images[rows[name]])) for name in chosen) if features else ()
    return Profile(*(np.stack(arrays) for arrays in zip(*parts, strict=True)), vectors)


def _patient(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Histogram, spectrum, tissue levels and edges of one patient's slices (n, M, H, W)."""
    brain = (images > 0).any(axis=1)
    counts = np.stack([np.bincount(images[:, m][brain], minlength=256) for m in range(len(Modality))])
    spectrum = np.mean([[radial_power(image) for image in sequence] for sequence in images], axis=0)
    levels = [tissue_levels(s, tissue_map(s, mask)) for s, mask in zip(images, masks, strict=True)]
    edges = np.mean([[100 * (canny(image) > 0).mean() for image in sequence] for sequence in images], axis=0)
    return counts / counts.sum(axis=1, keepdims=True), spectrum, np.nanmean(levels, axis=0), edges


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
    one, two = (np.concatenate(p.features) for p in (a, b))
    return np.array([frechet_distance(one[:, m], two[:, m]) for m in range(one.shape[1])])


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
        {"patients": {"simulated", "real"}, "draws", "seed", "order", "levels" and "edge_pixels" likewise for both,
        figure: {modality: {"value", "null_median", "null95", "outside"}}}. ``null95`` is the 95th percentile of the
        distances of as many random simulated patients to the rest; ``outside``: the real ones are farther than that.

    Raises:
        ValueError: no real patients, or not more than twice as many simulated ones.
    """
    count = len(real)
    if count < 1 or len(simulated) <= 2 * count:
        raise ValueError(
            f"Expected real patients and more than twice as many simulated ones, got {count} and {len(simulated)}: "
            "simulate more."
        )
    rng = np.random.default_rng(seed)
    halves = [np.split(rng.permutation(len(simulated)), [count]) for _ in range(draws)]
    both = {"simulated": simulated, "real": real}
    report = {
        "patients": {"simulated": len(simulated), "real": count},
        "draws": draws,
        "seed": seed,
        "order": {n: contrast_order(np.nanmean(p.tissue, axis=0)) for n, p in both.items()},
        "levels": {n: _levels(p) for n, p in both.items()},
        "edge_pixels": {n: dict(zip(NAMES, p.edges.mean(axis=0).tolist(), strict=True)) for n, p in both.items()},
    }
    for name, distance in DISTANCES.items():
        if name == "fd_mr" and not (simulated.features and real.features):
            continue
        value = distance(real, simulated)
        null = np.array([distance(simulated.take(few), simulated.take(rest)) for few, rest in halves])
        median, high = np.percentile(null, [50, 95], axis=0)
        report[name] = {
            m: {"value": v, "null_median": lo, "null95": hi, "outside": v > hi}
            for m, v, lo, hi in zip(NAMES, value.tolist(), median.tolist(), high.tolist(), strict=True)
        }
    return report


def _levels(one: Profile) -> dict[str, dict[str, float]]:
    """Mean grey level of each tissue by modality."""
    means = np.nanmean(one.tissue, axis=0).tolist()
    return {m: dict(zip(TISSUES, row, strict=True)) for m, row in zip(NAMES, means, strict=True)}
