"""How far simulated slices are from real ones, next to how far real ones are from other real ones; and their words.

    python -m experiments.realism --real outputs/real --simulated outputs/cohort

Real patients of a split, by default test patients, on whom no simulator was tuned, are drawn with replacement, again
and again, and as many of another set without: models "real" (the other real patients: the floor) and each simulated
cohort. Texture and tissue order are means over n slices; "word" is the share of all slices of a cohort whose sentence
says it. M modalities, D numbers of each.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.filters import threshold_multiotsu

from experiments.tables import keep
from mrtutor.data.cohort import YES_NO, Cohort
from mrtutor.data.structure import canny
from mrtutor.figures import Figure
from mrtutor.metrics.distances import frechet_distance, load_features
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.sequence import brain_of, present
from mrtutor.vocabulary import IDH, NO_TUMOUR, PARTS, Modality

RINGS = 64  # of the power spectrum
DISTANCES = {"histogram": "grey levels", "edge_density": "% of pixels", "power_spectrum": "dB", "fd_mr": ""}
MEANS = {"core_sd": "grey levels", "oedema_sd": "grey levels", "grey_above_white": ""}  # the last: share of slices
SIZES = {"histogram": 256, "power_spectrum": RINGS}  # D of metrics that have more than one number
MARGIN, MIN_PX = 4, 40  # pixels around brain edge and tumour that are no tissue; smallest region
MAX_ROWS = 1500  # slices of a cohort: enough


def spectrum(image: np.ndarray) -> np.ndarray:
    """Radially averaged power (RINGS,) of a slice in dB of its sum, without the mean; corners are left out."""
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, image.shape), indexing="ij"))
    ring = np.minimum((2 * RINGS * radius).astype(int), RINGS)
    mean = np.bincount(ring.ravel(), power.ravel())[:RINGS] / np.bincount(ring.ravel())[:RINGS]
    return 10 * np.log10(mean / mean.sum() + 1e-12)


def profile(cohort: Cohort, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of some slices, (n, M, D), NaN where it is not known; and "patient" (n,)."""
    images, masks = np.asarray(cohort.images[rows]), np.asarray(cohort.masks[rows])
    names = [*DISTANCES, *MEANS]
    found = {name: np.full((*images.shape[:2], SIZES.get(name, 1)), np.nan) for name in names}
    for i, (sequence, mask) in enumerate(zip(images, masks, strict=True)):
        brain, t1 = brain_of(sequence), sequence[list(Modality).index(Modality.T1)]
        healthy = binary_erosion(brain, iterations=MARGIN) & ~binary_dilation(mask > 0, iterations=MARGIN)
        tissue = np.zeros_like(mask)
        if len(np.unique(t1[healthy])) > 3:  # CSF, grey and white matter, from dark to bright in T1
            tissue = np.digitize(t1, threshold_multiotsu(t1[healthy], classes=3))
        regions = {"core_sd": mask == 1, "oedema_sd": mask == 2}
        for m in np.flatnonzero(present(sequence)):
            found["histogram"][i, m] = np.cumsum(np.bincount(sequence[m][brain], minlength=256)) / brain.sum()
            found["edge_density"][i, m] = 100 * (canny(sequence[m]) > 0).mean()
            found["power_spectrum"][i, m] = spectrum(sequence[m])
            for name, region in regions.items():
                found[name][i, m] = sequence[m][region].std() if region.sum() >= MIN_PX else np.nan
            if tissue.any():
                grey, white = (np.median(sequence[m][healthy & (tissue == number)]) for number in (1, 2))
                found["grey_above_white"][i, m] = grey > white
    return found | {"fd_mr": load_features()(images), "patient": cohort.table["patient"].to_numpy()[rows]}


def distance(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    """Between one modality of two profiles, (n, D) and (m, D); of cumulative histograms it is Wasserstein's."""
    a, b = a[np.isfinite(a[:, 0])], b[np.isfinite(b[:, 0])]
    if metric == "fd_mr":
        return frechet_distance(a, b)
    gap = np.abs(a.mean(axis=0) - b.mean(axis=0))
    return float(gap.sum() if metric == "histogram" else gap.mean())


def distances(profiles: dict[str, dict[str, np.ndarray]], target: np.ndarray, draws: int) -> list[Figure]:
    """Of each profile to the `target` patients of "real", every modality and their mean, with intervals over draws."""
    rng, found = np.random.default_rng(0), {}
    rows_of = {name: pd.Series(one["patient"]).groupby(one["patient"]).indices for name, one in profiles.items()}
    pools = {name: sorted(set(rows) - set(target)) for name, rows in rows_of.items()}
    for _ in range(draws):
        against = np.concatenate([rows_of["real"][who] for who in rng.choice(target, len(target))])
        for name, pool in pools.items():
            people = rng.choice(pool, min(len(target), len(pool)), replace=False)
            rows = np.concatenate([rows_of[name][who] for who in people])
            for metric in DISTANCES:
                some, others = profiles[name][metric][rows], profiles["real"][metric][against]
                values = [distance(metric, some[:, m], others[:, m]) for m in range(len(Modality))]
                found.setdefault((name, metric), []).append([*values, np.mean(values)])
    figures = []
    for (name, metric), table in found.items():
        for group, values in zip((*Modality, "mean"), np.transpose(table), strict=True):
            low, high = np.percentile(values, [2.5, 97.5])
            numbers = {"value": float(values.mean()), "low": low, "high": high, "n": draws, "patients": len(target)}
            about = {"model": name, "metric": metric, "group": str(group), "unit": DISTANCES[metric]}
            figures.append(Figure("realism", cohort="real", **about, **numbers))
    return figures


def means(profiles: dict[str, dict[str, np.ndarray]]) -> list[Figure]:
    """Texture and tissue order of each profile, as means over slices with intervals over patients."""
    figures = []
    for name, metric, m in ((name, metric, m) for name in profiles for metric in MEANS for m in range(len(Modality))):
        values = profiles[name][metric][:, m, 0]
        seen = np.isfinite(values)
        if seen.any():
            numbers = vars(estimate(values[seen], profiles[name]["patient"][seen]))
            about = {"model": name, "metric": metric, "group": str(list(Modality)[m]), "unit": MEANS[metric]}
            figures.append(Figure("realism", cohort="real", **about, **numbers))
    return figures


def words(name: str, cohort: Cohort) -> list[Figure]:
    """How often a slice's sentence says each word."""
    figures, patients = [], cohort.table["patient"]
    said = {NO_TUMOUR[0]: cohort.table["tumour_px"] == 0}
    said |= {kind: cohort.table["idh"] == kind for kind in IDH}
    for column, choices in PARTS.items():
        values = cohort.table[column].map(lambda word: YES_NO.get(word, word))
        said |= {phrases[0]: values == value for value, phrases in choices.items()}
    for word, there in said.items():
        numbers = vars(estimate(there.to_numpy(), patients))
        figures.append(Figure("realism", name, "word", group=str(word), cohort="real", **numbers))
    return figures


def main(
    real: Annotated[Path, typer.Option()],
    simulated: Annotated[list[str], typer.Option(metavar="[NAME=]FOLDER")],
    split: str = "test",
    draws: int = 100,
) -> None:
    """Compare simulated cohorts, called "simulated" unless a name is given, with the real patients of a split."""
    folders = {"real": str(real)} | dict(one.rpartition("=")[::2] for one in simulated)
    cohorts = {name or "simulated": Cohort.open(folder) for name, folder in folders.items()}
    profiles = {name: profile(cohort, cohort.rows(tumour=True)[:MAX_ROWS]) for name, cohort in cohorts.items()}
    target = cohorts["real"].table["patient"].iloc[cohorts["real"].rows(split, tumour=True)].unique()
    keep(distances(profiles, target, draws) + means(profiles))
    for name, cohort in cohorts.items():
        keep(words(name, cohort))


if __name__ == "__main__":
    typer.run(main)
