"""From the figures of single cases to a report: means with intervals, the nulls, and the claim with its p-value.

Axes: n cases, of fewer patients; intervals and tests keep a patient's slices together.
"""

from collections.abc import Sequence

import numpy as np

from mrtutor.metrics.intervals import estimate, ratio
from mrtutor.metrics.interventions import INTERVENTIONS
from mrtutor.metrics.localisation import paired_permutation
from mrtutor.metrics.separation import separation, tsne
from mrtutor.vocabulary import IDH

WORD = "glioma"
FACTOR, ALPHA = 3.0, 0.01  # what the claim asks: AUPRC over prevalence, and p against every null
PAPER, BY_WORD, BY_PATIENT = "as the paper", "by word, same noise and structure", "by patient, all asked for"


def report(cases: Sequence[dict], seed: int = 0) -> dict:
    """Everything the study says, from what `measure_case` gave for each case.

    Raises:
        ValueError: no case.
    """
    if not cases:
        raise ValueError("No case was measured: ask for two at least.")
    patients = [c["patient"] for c in cases]

    def over(values: Sequence[float]) -> dict:
        return estimate(values, patients, seed)

    tested = nulls(cases, seed)
    found = {
        "n": len(cases),
        "patients": len(set(patients)),
        "region": "pixels of the brain",
        "prevalence": over([c["prevalence"] for c in cases]),
        "words": {w: _each(cases, patients, ("words", w)) for w in cases[0]["words"]},
        "layers": {x: over([c["layers"][x] for c in cases]) for x in cases[0]["layers"]},
        "modalities": {m: over([c["modalities"][m] for c in cases]) for m in cases[0]["modalities"]},
        "nulls": tested,
        "claim": claim(cases, tested),
        "elsewhere": _elsewhere(cases, seed),
        "causal": causal(cases, seed),
    }
    return found | (figure_5(cases, seed) if "features" in cases[0] and len(cases) >= 4 else {})


def _each(cases: Sequence[dict], patients: list[str], path: tuple[str, str]) -> dict[str, dict]:
    first, second = path
    return {name: estimate([c[first][second][name] for c in cases], patients) for name in cases[0][first][second]}


def nulls(cases: Sequence[dict], seed: int = 0) -> dict[str, dict]:
    """For each null its figures, how much the word's AUPRC is above, and the one-sided p of that."""
    patients, table = [c["patient"] for c in cases], {}
    for name in cases[0]["nulls"]:
        above = [c["words"][WORD]["auprc"] - c["nulls"][name]["auprc"] for c in cases]
        table[name] = _each(cases, patients, ("nulls", name)) | {
            "difference": estimate(above, patients, seed),
            "p": paired_permutation(above, patients, seed=seed),
        }
    return table


def claim(cases: Sequence[dict], tested: dict[str, dict]) -> dict:
    """ "The map finds the tumour": three times the prevalence, and above every null.

    `p` is the largest over the nulls: all have to be beaten, so none needs a correction for their number.
    """
    found = [c["words"][WORD]["auprc"] for c in cases]
    times = ratio(found, [c["prevalence"] for c in cases], [c["patient"] for c in cases])
    p = max(row["p"] for row in tested.values())
    beaten = [name for name, row in tested.items() if row["p"] < ALPHA]
    return {
        "word": WORD,
        "ratio": times["value"],
        "ratio_ci95": times["ci95"],
        "at_least_3_times": bool(times["value"] >= FACTOR),
        "beaten": beaten,
        "above_all_nulls": len(beaten) == len(tested),
        "p": p,
        "holds": bool(times["value"] >= FACTOR) and len(beaten) == len(tested),
    }


def _elsewhere(cases: Sequence[dict], seed: int) -> dict:
    """AUPRC over prevalence of the patient's own tumour, and of another patient's, in the same map."""
    kept = [c for c in cases if "elsewhere" in c]
    if not kept:
        return {}
    patients = [c["patient"] for c in kept]
    own = [c["words"][WORD]["auprc"] / c["prevalence"] for c in kept]
    foreign = [c["elsewhere"]["auprc"] / c["elsewhere"]["prevalence"] for c in kept]
    return {
        "own_ratio": estimate(own, patients, seed),
        "foreign_ratio": estimate(foreign, patients, seed),
        "p": paired_permutation(np.log(own) - np.log(foreign), patients, seed=seed),
    }


def causal(cases: Sequence[dict], seed: int = 0) -> dict[str, dict]:
    """Change by each intervention, inside and outside the tumour; p that inside changes more."""
    kept = [c for c in cases if "causal" in c]
    if not kept:
        return {}
    patients, table = [c["patient"] for c in kept], {}
    for name in INTERVENTIONS:
        inside, outside = (np.array([c["causal"][name][where] for c in kept]) for where in ("inside", "outside"))
        table[name] = {
            "inside": estimate(inside, patients, seed),
            "outside": estimate(outside, patients, seed),
            "ratio_of_means": float(inside.mean() / max(outside.mean(), 1e-12)),
            "p": paired_permutation(inside - outside, patients, seed=seed),
        }
    return table


def figure_5(cases: Sequence[dict], seed: int = 0) -> dict:
    """Separation of the two types by maps and by pictures, in ways that a single cloud mixes up.

    `PAPER`: every patient under his own type's word, so image and word go together. `BY_WORD`: each patient under both
    words from the same noise, so only the word can separate. `BY_PATIENT`: all under one word, so only what the
    structure brings can separate.
    """
    patients = np.array([c["patient"] for c in cases])
    own = np.array([c["idh"] for c in cases])
    asked = np.where(own == IDH.WILD, IDH.MUTANT, IDH.WILD)  # of the other run
    words, kinds, people = np.concatenate([own, asked]), np.tile(own, 2), np.tile(patients, 2)
    table, clouds = {}, {}
    for what in cases[0]["features"]["own"]:
        first, second = (np.array([c["features"][run][what] for c in cases]) for run in ("own", "other"))
        both = np.concatenate([first, second])
        table[what] = {PAPER: separation(first, own, patients), BY_WORD: separation(both, words, people)}
        for word in IDH:
            asked_for = words == word
            parted = separation(both[asked_for], kinds[asked_for], people[asked_for])
            table[what][f"{BY_PATIENT} {word}"] = parted
        clouds[what] = np.round(tsne(first, seed), 2).tolist()
    return {"separation": table, "tsne": clouds | {"idh": own.tolist()}}
