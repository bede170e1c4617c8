"""How far simulated slices are from real ones, next to how far real ones are from other real ones.

    python -m experiments.realism --real outputs/real --simulated outputs/cohort

Half of the real patients are compared with the other half, and so are as many simulated ones, again and again: models
"real" (the floor) and "simulated". Texture and tissue order are means over n slices. M modalities, D numbers of each.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.filters import threshold_multiotsu

from experiments.tables import keep
from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import canny
from mrtutor.figures import Figure
from mrtutor.metrics.distances import frechet_distance, load_features
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.sequence import brain_of, present
from mrtutor.vocabulary import Modality

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


def main(real: Annotated[Path, typer.Option()], simulated: Annotated[Path, typer.Option()], draws: int = 100) -> None:
    """Compare two cohorts."""
    cohorts = {"real": Cohort.open(real), "simulated": Cohort.open(simulated)}
    profiles = {name: profile(cohort, cohort.rows(tumour=True)[:MAX_ROWS]) for name, cohort in cohorts.items()}
    people = {name: np.unique(one["patient"]) for name, one in profiles.items()}
    half, rng, figures = len(people["real"]) // 2, np.random.default_rng(0), []
    about = {"experiment": "realism", "cohort": "real"}
    found = {(name, metric, m): [] for name in profiles for metric in DISTANCES for m in range(len(Modality))}
    for _ in range(draws):
        order = rng.permutation(people["real"])
        against = np.isin(profiles["real"]["patient"], order[half : 2 * half])
        chosen = {"real": order[:half], "simulated": rng.choice(people["simulated"], half, replace=False)}
        for (name, metric, m), values in found.items():
            some = np.isin(profiles[name]["patient"], chosen[name])
            values.append(distance(metric, profiles[name][metric][some, m], profiles["real"][metric][against, m]))
    for (name, metric, m), values in found.items():
        low, high = np.percentile(values, [2.5, 97.5])
        numbers = {"value": float(np.mean(values)), "low": low, "high": high, "n": draws, "patients": half}
        about |= {"model": name, "metric": metric, "group": str(list(Modality)[m])}
        figures.append(Figure(unit=DISTANCES[metric], **numbers, **about))
    for name, metric, m in ((name, metric, m) for name in profiles for metric in MEANS for m in range(len(Modality))):
        values = profiles[name][metric][:, m, 0]
        seen = np.isfinite(values)
        if seen.any():
            numbers = vars(estimate(values[seen], profiles[name]["patient"][seen]))
            about |= {"model": name, "metric": metric, "group": str(list(Modality)[m])}
            figures.append(Figure(unit=MEANS[metric], **numbers, **about))
    keep(figures)


if __name__ == "__main__":
    typer.run(main)
