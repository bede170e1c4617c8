"""Does the "glioma" map find the tumour? Measured on many held-out structures: `attention_case` for each of them.

    python -m mrtutor.metrics.attention_study --count 200

Each case is a file of its own, so an interrupted run goes on where it was, and a larger one begins with the smaller.

Axes: n cases · H, W image pixels.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.files import write_json
from mrtutor.metrics.attention_case import EDGES, PLACE, Case, Extract, make_case, measure_case
from mrtutor.metrics.attention_report import report
from mrtutor.metrics.draws import weights_key
from mrtutor.metrics.features import load_features
from mrtutor.metrics.localisation import average_precision
from mrtutor.metrics.separation import resnet_features
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.training.batches import cohort_key
from mrtutor.training.validation import spread
from mrtutor.vocabulary import IDH

Rivals = Callable[[Case], dict[str, np.ndarray]]  # maps (H, W) that need no word

OUTPUT = "data/results/10_attention.json"
STEPS = 12  # of sampling, half of the default: chapter 10 prints how alike the maps of both are
SIGMAS = (4.0, 8.0, 16.0, 24.0, 32.0)  # pixels, of the blur that makes a map of edges
FITTED_ON = 64  # training slices that choose it
CAUSAL_EVERY = 10  # one case in ten is also intervened upon


def study_cases(cohort: Cohort, count: int, seed: int = 0) -> list[Case]:
    """Half mutant, half wild, in an order of chance over the slices of the test split.

    Raises:
        ValueError: fewer than two cases asked for, or more than there are.
    """
    halves = [np.random.default_rng(seed).permutation(cohort.rows("test", idh))[: count // 2] for idh in IDH]
    least = min(map(len, halves))
    if count < 2 or least < count // 2:
        raise ValueError(f"Expected 2 to {2 * least} cases, half of either type, got {count}: none else is held out.")
    cases = []
    for row in np.stack(halves, axis=1).ravel().tolist():
        images, about = cohort.images[row].astype(np.float32) / 255, cohort.table.iloc[row]
        cases.append(make_case(images, cohort.masks[row], about["idh"], about["subject_id"], row, seed))
    return cases


def fit_rivals(cohort: Cohort) -> tuple[Rivals, float]:
    """Nulls that know no sentence: blurred edges, and where tumours are on average.

    The blur that finds most is chosen on training slices, so that the null is as strong as it can be without cheating.

    Returns:
        function of a case; the blur's sigma in pixels.

    Raises:
        ValueError: no training slice.
    """
    rows = cohort.rows("train")
    if not len(rows):
        raise ValueError("No training slice to fit the nulls on: use a cohort with a split named train.")
    place = np.mean([cohort.masks[r] > 0 for r in spread(rows, 1000)], axis=0)
    fitted = [make_case(cohort.images[r] / 255, cohort.masks[r], IDH.WILD, "", int(r)) for r in spread(rows, FITTED_ON)]
    found = {s: np.mean([average_precision(blurred(c, s), c.mask, c.brain) for c in fitted]) for s in SIGMAS}
    sigma = max(found, key=found.get)
    return lambda case: {EDGES: blurred(case, sigma), PLACE: place}, sigma


def blurred(case: Case, sigma: float) -> np.ndarray:
    """Density of edges (H, W)."""
    return cv2.GaussianBlur(case.structure.astype(np.float32), (0, 0), sigma)


def study_key(pipeline: MRPipeline, cohort: Cohort, seed: int, steps: int) -> dict:
    """All that decides a case's figures: other weights, another cohort, another number of steps never mix."""
    return {"weights": weights_key(pipeline), "cohort": cohort_key(cohort), "seed": seed, "steps": steps}


def attention_study(
    pipeline: MRPipeline,
    cohort: Cohort,
    count: int = 200,
    *,
    steps: int = STEPS,
    seed: int = 0,
    features: Extract | None = None,
    features_name: str = "none",
    output: str | Path = OUTPUT,
    cases_folder: str | Path = "outputs/attention_study",
) -> dict:
    """Measure `count` cases, go on where an earlier run stopped, write the report.

    Args:
        features: of Fig. 5; None leaves the figure out.
        features_name: what they are, for the record.
        output: JSON of the report.
        cases_folder: a file for each case lies below, in a folder for each key.

    Raises:
        ValueError: as `study_cases` and `fit_rivals`.
    """
    cases = study_cases(cohort, count, seed)
    key = study_key(pipeline, cohort, seed, steps) | {"features": features_name}
    folder = Path(cases_folder) / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    rivals, sigma = fit_rivals(cohort)
    held_out = cohort.rows("test")
    pipeline.set_progress_bar_config(disable=True)
    measured = []
    for number, case in enumerate(tqdm(cases, desc="attention, cases")):
        path = folder / f"{case.name}.json"
        if not path.is_file():
            other_row = held_out[(np.searchsorted(held_out, case.number) + len(held_out) // 2) % len(held_out)]
            causal = number % CAUSAL_EVERY == 0
            options = {"features": features, "causal": causal, "num_inference_steps": steps}
            write_json(path, measure_case(pipeline, case, rivals(case), cohort.masks[other_row], **options))
        measured.append(json.loads(path.read_text()))
    about = {"of": key, "simulated": cohort.simulated, "sigma_px": sigma}
    found = about | {"guidance_scale": pipeline.config.guidance_scale} | report(measured, seed)
    write_json(output, found)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="laptop", help="name or folder of weights")
    parser.add_argument("--cohort", default="outputs/cohort", help="folder of the prepared cohort")
    parser.add_argument("--count", type=int, default=200, help="cases, half of either type")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resnet", help="folder of ResNet-18 for Fig. 5; default the shipped feature network")
    parser.add_argument("--output", default=OUTPUT)
    args = parser.parse_args(arguments)
    try:
        features = resnet_features(args.resnet) if args.resnet else load_features()
        name = "ResNet-18" if args.resnet else "MR feature network"
        pipeline, cohort = load_pretrained(args.pipeline), Cohort.open(args.cohort)
        options = {"steps": args.steps, "seed": args.seed, "features": features, "features_name": name}
        found = attention_study(pipeline, cohort, args.count, **options, output=args.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"Not possible: {error}\n")
    claim = found["claim"]
    print(
        f"N = {found['n']}: AUPRC of 'glioma' is {claim['ratio']:.2f} x prevalence, above all nulls: "
        f"{claim['above_all_nulls']} (largest p {claim['p']:.4f}). Written to {args.output}."
    )


if __name__ == "__main__":
    main()
