"""Guidance variants A-D under one budget: the same plain LDM, steps, batch size, seed and held-out cases.

Everything is trained in a sub-folder `variants` of the run, which sees the run's components through links; what the
run itself has trained and what ships stays as it is. A finished variant is not repeated, an interrupted one goes on
from its checkpoint.

Axes: n cases · H, W image pixels. Images are floats in [0, 1].
"""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from diffusers import UNet2DConditionModel

from mrtutor.files import atomic_path, sha256, write_json
from mrtutor.metrics.generation import Cases, generate, held_out_cases, of_another, structure_f1
from mrtutor.models.denoiser import build_scheduler
from mrtutor.models.guidance import Variant
from mrtutor.sampling.pack import pipeline_of_run
from mrtutor.training.batches import cohort_key, recipe_key
from mrtutor.training.objectives import DiffusionObjective
from mrtutor.training.run import Run, latent_batches, validation_rows
from mrtutor.training.stages import train
from mrtutor.training.validation import DiffusionValidation, write_sheet
from mrtutor.vocabulary import Modality

VARIANTS = (Variant.A, Variant.B, Variant.C, Variant.D)
COMPONENTS = ("autoencoder", "text_encoder", "tokenizer", "unet")
REPORT = Path("data/results/variants.json")
SHOWN = 3  # cases on the sheet of pictures
# The same whatever a preset samples with. Guidance sharpens the sentence alone: outlines are the door's work.
SAMPLING = {
    "guidance_scale": 1.5,
    "guidance_interval": (0.2, 0.8),
    "guide_structure": False,
    "eta": 1.0,
    "grain": False,
}


def compare_variants(
    run: Run,
    steps: int,
    *,
    count: int = 50,
    sampling_steps: int | None = None,
    points: int = 10,
    output: str | Path = REPORT,
) -> dict:
    """Train A, B, C and D from the run's plain LDM and measure how well their pictures follow the structure.

    Args:
        run: stages autoencoder, text and denoiser are done; `run.folder/variants` is this function's own.
        steps: training steps of each variant, instead of the preset's.
        count: held-out cases (four slices each).
        sampling_steps: of the sampler; default the preset's.
        points: validations along each curve.
        output: the report, written after each variant; a sheet of pictures goes beside it as PNG.

    Returns:
        {"of", "preset", "steps_budget", "batch_size", "seed", "attainable", "null", "plain_error", "A": {"curve":
        [[step, error], …] from step 0, the plain LDM, "edge_f1", "null_f1" (the same pictures against another
        patient's structure), "seconds" of training}, "B": …}. "attainable" and "null" are the true slices against
        their own and another patient's structure. Error: Eq. 4, unweighted, on fixed validation slices.

    Raises:
        ValueError: fewer than one step, or fewer than two cases.
        FileNotFoundError: an earlier stage has not run.
    """
    cases = held_out_cases(run.cohort, count)
    if steps < 1 or len(cases) < 2:
        raise ValueError(f"Expected at least 1 step and 2 held-out cases, got {steps} and {len(cases)}.")
    output, work = Path(output), _work_run(run, steps, points)
    recipe = work.settings("guidance")
    key = json.loads(_key_file(work.folder).read_text()) | {"cases": len(cases), "sampling_steps": sampling_steps}
    key |= {"cohort_recipe": recipe_key(run.cohort), "sampling": str(SAMPLING)}
    report = json.loads(output.read_text()) if output.is_file() else {}
    if report.get("of") != key:  # another budget or other weights: nothing that stands there holds
        report = {"of": key, "preset": run.preset.name, "steps_budget": steps, "batch_size": recipe.batch_size}
        report |= {"seed": run.seed, "attainable": _f1(cases, cases.images), "null": _null_f1(cases, cases.images)}
        report["plain_error"] = _plain_error(work)
    for variant in VARIANTS:
        if str(variant) not in report:
            report[str(variant)] = _measure(work, variant, cases, sampling_steps, report["plain_error"])
            write_json(output, report)
    _draw_sheet(work, cases, sampling_steps, output.with_suffix(".png"))
    return report


def _work_run(run: Run, steps: int, points: int) -> Run:
    """The run's twin in its sub-folder; emptied first if it holds another comparison."""
    folder = run.folder / "variants"
    recipe = run.preset.stages["guidance"]
    every = max(1, steps // points)
    warmup = min(recipe.warmup, max(1, steps // 10))
    recipe = replace(recipe, steps=steps, warmup=warmup, validate_every=every, checkpoint_every=every)
    weights = run.component("unet") / "diffusion_pytorch_model.safetensors"
    key = {"unet": sha256(weights)[:12], "cohort": cohort_key(run.cohort), "seed": run.seed, "recipe": str(recipe)}
    key_file = _key_file(folder)
    if folder.exists() and not (key_file.is_file() and json.loads(key_file.read_text()) == key):
        shutil.rmtree(folder)
    for name in COMPONENTS:
        _link(run.component(name), folder / name)
    for latents in (run.folder / "runs").glob("latents-*.npy"):
        _link(latents, folder / "runs" / latents.name)
    write_json(key_file, key)
    preset = replace(run.preset, stages=run.preset.stages | {"guidance": recipe})
    return replace(run, preset=preset, folder=folder, steps=None)


def _key_file(folder: Path) -> Path:
    return folder / "of.json"


def _link(source: Path, link: Path) -> None:
    """Link, or a copy where the file system or the user's rights allow no link."""
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(), link, target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, link)


def _measure(
    work: Run, variant: Variant, cases: Cases, sampling_steps: int | None, plain_error: float
) -> dict[str, object]:
    if not (work.folder / ("unet-D" if variant is Variant.D else f"guidance-{variant}")).is_dir():
        train(work, "guidance", variant=variant, resume=True)
    sequences = _sequences(work, variant, cases, sampling_steps)
    log = work.folder / "runs" / f"guidance-{variant}"
    return {
        "curve": [[0, plain_error], *_curve(log / "log.csv")],  # step 0 changes nothing: tests/models/test_guidance.py
        "edge_f1": _f1(cases, sequences),
        "null_f1": _null_f1(cases, sequences),
        "seconds": json.loads((log / "cost.json").read_text())["seconds"],
    }


def _curve(path: Path) -> list[list[float]]:
    """Validation error over steps, from a stage's log."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["split"], row["name"]) == ("validation", "error")]
    return [[int(row["step"]), float(row["value"])] for row in rows]


def _plain_error(work: Run) -> float:
    """Validation error of the plain LDM, on the slices, time steps and noise that the variants are judged on."""
    unet = UNet2DConditionModel.from_pretrained(work.component("unet")).eval().to(work.device)
    rows = validation_rows(work.cohort, 64)
    batches = latent_batches(work, with_structure=False)
    return DiffusionValidation(DiffusionObjective(build_scheduler()), batches, rows, work.precision)(unet)["error"]


def _sequences(work: Run, variant: Variant, cases: Cases, sampling_steps: int | None) -> np.ndarray:
    """Synthetic sequences (n, 4, H, W), kept as uint8 beside the component."""
    path = work.folder / f"sequences-{variant}-{len(cases)}-{sampling_steps or 'default'}.npy"
    if not path.is_file():
        pipeline = pipeline_of_run(work.folder, work.preset.name, variant).to(work.device)
        drawn = generate(pipeline, cases, seed=work.seed, num_inference_steps=sampling_steps, **SAMPLING)
        with atomic_path(path) as temporary:
            np.save(temporary, (drawn * 255).round().astype(np.uint8))
    return np.load(path).astype(np.float32) / 255


def _f1(cases: Cases, sequences: np.ndarray) -> dict:
    return structure_f1(cases.structures, cases.edges_of, sequences, cases.patients)


def _null_f1(cases: Cases, sequences: np.ndarray) -> dict:
    """Edge F1 with the structure of another patient's case."""
    other = of_another(cases.patients)
    return structure_f1(cases.structures[other], cases.edges_of[other], sequences, cases.patients)


def _draw_sheet(work: Run, cases: Cases, sampling_steps: int | None, path: Path) -> None:
    """PNG: a row per case, structure · true T2 slice · T2 of A, B, C and D."""
    t2 = list(Modality).index(Modality.T2)
    drawn = [_sequences(work, variant, cases, sampling_steps) for variant in VARIANTS]
    columns = [cases.structures.astype(np.float32), cases.images[:, t2], *(s[:, t2] for s in drawn)]
    write_sheet(path, [[column[i] for column in columns] for i in range(min(SHOWN, len(cases)))])
