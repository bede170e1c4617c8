"""Table 1 of Kim et al., WACV 2024, and what it lacks: nulls, a floor, a machine's eye and memory (its use: `utility`).

Every model comes as `sets[name]`, (n, 4, 256, 256) uint8 in the order of `Modality`, all drawn for the same `rows` (n,)
of the cohort: structure, tumour mask and IDH word of sequence i are those of row `rows[i]`, a held-out patient's.
Each function gives plain dicts for JSON, {"value", "ci95", "n"} at the leaves; intervals resample patients.

Axes: n sequences · M = 4 modalities · D features · H, W image pixels (256).
"""

from collections.abc import Mapping

import numpy as np

from mrtutor.data.cohort import Cohort
from mrtutor.metrics import memorisation as memory
from mrtutor.metrics.draws import orders
from mrtutor.metrics.features import Features
from mrtutor.metrics.frechet import RESAMPLES, distance_estimate
from mrtutor.metrics.generation import of_another, structure_f1
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.nulls import NULLS
from mrtutor.metrics.two_sample import STEPS, tell_by_features, tell_by_pixels
from mrtutor.vocabulary import Modality

Sets = Mapping[str, np.ndarray]
DISTANCES = {"fid_mr": "frechet", "kid_mr": "kid"}
COLUMNS = (*map(str, Modality), "average")
HELD_OUT = ("validation", "test")
NEAR = 0.05  # quantile of the held-out slices' distances below which a slice counts as near


def image_quality(
    sets: Sets,
    cohort: Cohort,
    features: Features,
    seed: int = 0,
    *,
    rows: np.ndarray | None = None,
    resamples: int = RESAMPLES,
) -> dict:
    """FD-MR and KID of every set to the cohort's training slices, per modality and on average.

    The reference is every training slice: no structure that a set was drawn from is among them. The floor is what
    held-out *real* slices reach against the same reference, those that the structures are of; the null rows are those
    very slices, spoilt. What a model gains on the floor is noise, not quality.

    Args:
        rows: of the sets; without it each sequence counts as its own patient in the intervals, and the floor takes as
            many held-out slices as the largest set has.
        resamples: bootstrap draws.

    Returns:
        {"fid_mr": {row: {modality | "average": {"value", "ci95", "n"}}}, "kid_mr": likewise, "floor": {"fid_mr":
        {modality | "average": …}, "kid_mr": …}, "reference_n"}; rows are the sets and `NULLS`.

    Raises:
        ValueError: a set of wrong shape or type, or with fewer than two sequences.
    """
    for name, images in sets.items():
        check_set(name, images, rows)
    train, largest = cohort.rows("train"), max(map(len, sets.values()), default=0)
    held = _held_out_rows(cohort, largest, seed) if rows is None else np.unique(rows)
    patients = cohort.table["subject_id"].to_numpy()
    reference = features.of_rows(cohort, train, "training slices")
    real = np.asarray(cohort.images[held])
    spoilt = {name: spoil(real) for name, spoil in NULLS.items()}
    own = None if rows is None else patients[rows]
    groups = {**dict.fromkeys(sets, own), **dict.fromkeys(("floor", *spoilt), patients[held])}
    report: dict = {"fid_mr": {}, "kid_mr": {}}
    for name, images in {**sets, "floor": real, **spoilt}.items():
        found = features.of(images, name)
        pairs = [(found[:, m], reference[:, m]) for m in range(len(Modality))]
        for key, distance in DISTANCES.items():
            options = {"resamples": resamples, "seed": seed}
            values = distance_estimate(distance, pairs, groups[name], patients[train], **options)
            report[key][name] = dict(zip(COLUMNS, values, strict=True))
    floor = {key: report[key].pop("floor") for key in DISTANCES}
    return report | {"floor": floor, "reference_n": len(train)}


def _held_out_rows(cohort: Cohort, count: int, seed: int) -> np.ndarray:
    """Rows of held-out patients, `count` of them where there are more, ascending; at least two."""
    rows = np.concatenate([cohort.rows(split) for split in HELD_OUT])
    if 2 <= count < len(rows):
        rows = np.random.default_rng(seed).choice(rows, count, replace=False)
    return np.sort(rows)


def structure(sets: Sets, rows: np.ndarray, cohort: Cohort, seed: int = 0) -> dict:
    """Edge F1, with a tolerance of 2 pixels, between the structure of each sequence and what was drawn from it.

    The modality that lent the edges is left out, see `structure_f1`.

    Args:
        seed: that the sets were drawn with.

    Returns:
        {set | "attainable" | "null": {"value", "ci95", "sd", "n"}}: what the cohort's own slices reach with their
        structures, and with those of other patients.

    Raises:
        ValueError: a set of wrong shape or type; a single patient.
    """
    for name, images in sets.items():
        check_set(name, images, rows)
    wanted, patients = orders(cohort, rows, seed=seed), cohort.table["subject_id"].to_numpy()[rows]
    maps = np.stack([order.structure for order in wanted])
    edges_of = np.array([list(Modality).index(order.edges_of) for order in wanted])
    truth, other = np.asarray(cohort.images[rows]), of_another(patients)
    report = {name: structure_f1(maps, edges_of, images, patients) for name, images in sets.items()}
    report["attainable"] = structure_f1(maps, edges_of, truth, patients)
    return report | {"null": structure_f1(maps[other], edges_of[other], truth, patients)}


def two_sample(
    sets: Sets, rows: np.ndarray, cohort: Cohort, features: Features, seed: int = 0, *, steps: int = STEPS
) -> dict:
    """Can a machine tell each set from held-out cohort slices? And the cohort from the cohort?

    The real slices are those of the same rows, so that anatomy betrays nothing; of a row that was drawn from several
    times one sequence is taken. The control sets as many training slices against them: it should lie near 0.5.

    Args:
        steps: of the small network on pixels.

    Returns:
        {set | "cohort": {"features": {"value", "ci95", "sd", "n"}, "pixels": …}}; accuracy, 0.5 is chance.

    Raises:
        ValueError: a set of wrong shape or type; fewer than two patients.
    """
    for name, images in sets.items():
        check_set(name, images, rows)
    unique, first = np.unique(rows, return_index=True)
    patients = cohort.table["subject_id"].to_numpy()
    real, train = np.asarray(cohort.images[unique]), cohort.rows("train")
    other = np.sort(np.random.default_rng(seed).choice(train, min(len(unique), len(train)), replace=False))
    kept = np.linspace(0, len(unique) - 1, len(other)).astype(int)  # balanced also where training slices are few
    against = {name: (np.asarray(images)[first], real, patients[unique], unique) for name, images in sets.items()}
    against["cohort"] = (np.asarray(cohort.images[other]), real[kept], patients[other], unique[kept])
    report = {}
    for name, (a, b, who, of) in against.items():
        people = who, patients[of]
        by_features = tell_by_features(features.of(a, name), features.of(b, "held-out slices"), *people, seed)
        report[name] = {"features": by_features, "pixels": tell_by_pixels(a, b, *people, steps=steps, seed=seed)}
    return report


def memorisation(sets: Sets, rows: np.ndarray, cohort: Cohort, *, pairs: int = 4) -> dict:
    """Root-mean-square distance to the nearest training slice of the same modality: each set, and held-out slices.

    Args:
        pairs: closest pairs of each modality to give, for a look.

    Returns:
        {set | "held_out": {"distance": {modality | "average": {"value", "ci95", "sd", "n"}}, "near": {…}, "closest":
        {modality: [{"query", "row", "distance"}]}}}. "near" is the share of slices nearer to a training slice than
        5 % of the held-out slices are: 0.05 by construction for those. "query" counts the set's sequences (for
        "held_out": rows of the cohort), "row" is the training slice's row.

    Raises:
        ValueError: a set of wrong shape or type.
    """
    for name, images in sets.items():
        check_set(name, images, rows)
    train, unique = cohort.rows("train"), np.unique(rows)
    patients = cohort.table["subject_id"].to_numpy()
    references = [memory.embed(cohort.images[train, m]) for m in range(len(Modality))]
    report, limits = {}, None
    for name, images in {"held_out": cohort.images[unique], **sets}.items():
        of = unique if name == "held_out" else rows
        found = [memory.nearest(memory.embed(images[:, m]), r) for m, r in enumerate(references)]
        distances = np.stack([d for d, _ in found], axis=1)
        limits = np.quantile(distances, NEAR, axis=0) if limits is None else limits
        closest = {str(m): memory.closest_pairs(*found[i], pairs) for i, m in enumerate(Modality)}
        for pair in (pair for many in closest.values() for pair in many):
            pair["row"] = int(train[pair.pop("reference")])
            pair["query"] = int(unique[pair["query"]]) if name == "held_out" else pair["query"]
        near = (distances < limits).astype(float)
        report[name] = {"distance": _by_modality(distances, patients[of]), "near": _by_modality(near, patients[of])}
        report[name]["closest"] = closest
    return report


def _by_modality(values: np.ndarray, patients: np.ndarray) -> dict[str, dict]:
    """Estimates of the columns of (n, M), and of all."""
    each = {str(m): estimate(values[:, i], patients) for i, m in enumerate(Modality)}
    return each | {"average": estimate(values.ravel(), np.repeat(patients, values.shape[1]))}


def check_set(name: str, images: np.ndarray, rows: np.ndarray | None) -> None:
    """A set is (n, 4, 256, 256) uint8 with n of two at least, `rows` (n,) or None; ValueError otherwise."""
    if images.ndim != 4 or images.shape[1] != len(Modality) or images.dtype != np.uint8 or len(images) < 2:
        raise ValueError(
            f"Expected of {name} at least two sequences (n, {len(Modality)}, H, W) uint8, got {images.shape} "
            f"{images.dtype}: multiply images in [0, 1] by 255 and round."
        )
    if rows is not None and len(rows) != len(images):
        raise ValueError(
            f"Expected a row of the cohort for each of {len(images)} sequences of {name}, got {len(rows)}."
        )
