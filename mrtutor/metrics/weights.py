"""All figures of the shipped weights in one go: `mrtutor evaluate --quick`.

Every figure is measured on patients of the test split, with N, interval and its null or ceiling beside it, and is
written to `data/results/weights.json`. Finished parts are kept, so an interrupted run goes on where it was.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mrtutor.data.cohort import Cohort
from mrtutor.files import atomic_path, write_json
from mrtutor.metrics import generation
from mrtutor.metrics.draws import network_key, weights_key
from mrtutor.metrics.generation import Cases, held_out_cases
from mrtutor.metrics.reader import Reader
from mrtutor.metrics.record import commit
from mrtutor.metrics.weight_figures import (
    Evaluation,
    autoencoder_figures,
    cost_figures,
    diversity_figures,
    prompt_figures,
    sequence_figures,
    structure_figures,
)
from mrtutor.models.guidance import Variant
from mrtutor.training.batches import cohort_key, recipe_key

COMPARISON = "variants.json"  # beside the report
TRAINED_ON = "2 CPU cores"  # where nobody says otherwise
ASKS = {"reader": ("prompt",), "real": ("autoencoder",)}  # parts of the key that some figures alone depend on


def evaluate_weights(
    pipeline,
    cohort: Cohort,
    reader: Reader,
    output: Path,
    *,
    count: int = 100,
    seed: int = 0,
    trained_on: str | None = None,
    real: Sequence[Path] = (),
) -> dict:
    """Measure everything and write it to `output`.

    Args:
        count: sequences (4 slices each).
        trained_on: device that trained the weights, for the record; default what a stored report of them says.
        real: folders of real cases, whose slices go through the autoencoder too.

    Raises:
        ValueError: a plain LDM, which takes no structure.
    """
    if Variant(pipeline.config.variant) is Variant.NONE:
        raise ValueError(
            "These weights take no structure, and half of the model card's figures ask how a structure is followed: "
            "measure a plain LDM with `mrtutor evaluate --ldm FOLDER`."
        )
    drawn = {"seed": seed, "count": count, "cohort": cohort_key(cohort), "weights": weights_key(pipeline)}
    judged = {"reader": network_key(reader.modality, reader.idh), "real": [Path(folder).name for folder in real]}
    report = _kept(output, drawn | {"cohort_recipe": recipe_key(cohort)} | judged) | {"seed": seed}
    report["device_trained"] = trained_on or report.get("device_trained", TRAINED_ON)
    parts: dict[str, Callable[[Evaluation], dict]] = {
        "autoencoder": autoencoder_figures,
        "prompt": prompt_figures,
        "structure": structure_figures,
        "tumour": lambda e: generation.tumour_movement(e.pipeline, e.cases, seed=e.seed),
        "sequence": sequence_figures,
        "memory": lambda e: generation.memory(e.cohort, e.sequences, e.cases),
        "cost": cost_figures,
        "diversity": diversity_figures,
    }
    if missing := parts.keys() - report.keys():
        cases = held_out_cases(cohort, count)
        sequences = _sequences(pipeline, cases, seed, output, drawn)
        evaluation = Evaluation(pipeline, cohort, cases, reader, seed, sequences, tuple(real))
        report["commit"] = commit()
    for name, part in parts.items():
        if name in missing:
            report[name] = part(evaluation)
            write_json(output, report)
    report["structure"] |= other_variants(output.with_name(COMPARISON), report["structure"].get("shipped"), cohort)
    write_json(output, report)
    return report


def _kept(output: Path, key: dict) -> dict:
    """What of a stored report holds: nothing of other weights or cases, no prompt that another reader read.

    The same patients on another CPU, a few pixels one grey level off, are no other cases: "of" keeps their "cohort".
    """
    stored = json.loads(output.read_text()) if output.is_file() else {}
    of = stored.get("of", {})
    changed = {part for part in key if part != "cohort" and of.get(part) != key[part]}
    if changed - ASKS.keys():
        return {"of": key}
    anew = {name for part in changed for name in ASKS[part]}
    return {name: value for name, value in stored.items() if name not in anew} | {"of": key | {"cohort": of["cohort"]}}


def _sequences(pipeline, cases: Cases, seed: int, output: Path, key: dict) -> np.ndarray:
    """Generated sequences, of 256 grey levels as in a file, kept beside the report as `.sequences.npz`."""
    path = output.with_suffix(".sequences.npz")
    stored = np.load(path) if path.is_file() else None
    if stored is None or json.loads(str(stored["key"])) != key:
        drawn = (generation.generate(pipeline, cases, seed=seed) * 255).round().astype(np.uint8)
        stored = {"sequences": drawn, "key": json.dumps(key)}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **stored)
    return stored["sequences"].astype(np.float32) / 255


def other_variants(comparison: Path, shipped: str | None, cohort: Cohort) -> dict[str, dict]:
    """Edge F1 of the guidance variants that do not ship, with the steps that each was trained for.

    Args:
        comparison: report of `mrtutor.metrics.variants.compare_variants`; {} where there is none of these patients.
    """
    found = json.loads(comparison.read_text()) if comparison.is_file() else {}
    if found.get("of", {}).get("cohort_recipe") != recipe_key(cohort):
        return {}
    others = [str(v) for v in Variant if str(v) in found and str(v) != shipped]
    return {name: found[name]["edge_f1"] | {"steps": found["steps_budget"]} for name in others}
