"""Tables 1 to 3: every model draws from the same held-out edge maps and is measured in the same way.

    python -m experiments.tables --cohort outputs/real --cohort outputs/cohort --model A=outputs/variants/A

The shipped pipeline; "ldm", the same weights with the edge map left out; what `--model` names; StyleGAN2; the true
slices through the autoencoder, and spoilt. A run that was cut off goes on with the next chunk of sequences.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.ndimage import gaussian_filter

from experiments.stylegan2.sampler import load_stylegan2
from mrtutor.data.cohort import Cohort
from mrtutor.figures import Figure, record
from mrtutor.files import data_root
from mrtutor.metrics.distances import load_features, reconstruct_slices, sharpness
from mrtutor.metrics.evaluate import SECTIONS, estimates, evaluate
from mrtutor.metrics.evaluators import Reader, load_reader
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.prompts import load_scorer
from mrtutor.metrics.sequence import each, psnr, ssim
from mrtutor.pipeline.draw import DrawSpec, SampleSet, draw_sets, weights_key
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.vocabulary import IDH

EVALUATORS = {"features": ("features", load_features), "readers": ("reader", load_reader)}
EVALUATORS |= {"scoring_clip": ("scorer", load_scorer)}  # name in data/pretrained: argument of `evaluate`, and how


def keep(figures: Iterable[Figure]) -> None:
    """Record figures with the hash of the commit, and print them."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    figures = [replace(figure, commit=commit) for figure in figures]
    record(figures)
    print(*(f"{f.cohort} {f.model} {f.metric} {f.group}: {f}" for f in figures), sep="\n")


def spoilt(images: np.ndarray) -> dict[str, np.ndarray]:
    """True sequences (n, 4, H, W) uint8 that are wrong in a known way: blurred, with Rician noise, misnamed."""
    real, imaginary = np.random.default_rng(0).normal(0, 0.05 * 255, (2, *images.shape))
    noisy = np.hypot(images + real, imaginary).round().clip(0, 255).astype(np.uint8) * (images > 0)
    blurred = gaussian_filter(images, (0, 0, 1.5, 1.5))
    return {"truth_blurred": blurred, "truth_noisy": noisy, "truth_wrong_modality": np.roll(images, -1, axis=1)}


def word_figures(reader: Reader, own: SampleSet, swapped: SampleSet, **about: str) -> list[Figure]:
    """Edges of one type's tumours with the word of the other: whom does the picture follow?

    "follows_word": share read as the word says where word and tumour disagree; "word_effect": how much likelier wild is
    read when the word alone turns from mutant to wild (1 obeys, 0 is deaf).
    """
    known = np.flatnonzero(own.table["idh"] != "")
    wild = (own.table["idh"].iloc[known] == IDH.WILD).to_numpy()
    said, other = (reader.read_idh(drawn.images[known]) == list(IDH).index(IDH.WILD) for drawn in (own, swapped))
    effect = np.where(wild, said.astype(float) - other, other.astype(float) - said)
    values = {"agreeing": said == wild, "follows_word": other != wild, "word_effect": effect}
    found = {name: vars(estimate(each, own.table["patient"].iloc[known])) for name, each in values.items()}
    return [Figure("tables", metric="word_obeyed", group=name, **numbers, **about) for name, numbers in found.items()]


def autoencoder_figures(truth: np.ndarray, decoded: np.ndarray, patients: np.ndarray, **about: str) -> list[Figure]:
    """What the autoencoder alone costs, for slices (n, 4, H, W): PSNR in dB, SSIM, sharpness over the true one."""
    values = {"ae_psnr_db": each(psnr, truth, decoded), "ae_ssim": each(ssim, truth, decoded)}
    values |= {"sharpness_ratio": sharpness(decoded) / sharpness(truth)}
    found = [row for metric, one in values.items() for row in estimates(metric, one, patients)]
    about |= {"experiment": "weights", "model": "autoencoder"}
    units, groups = {"ae_psnr_db": "dB"}, {"mean": "all"}
    return [Figure(metric=m, group=groups.get(g, g), unit=units.get(m, ""), **vars(e), **about) for m, g, e in found]


def main(
    cohort: Annotated[list[Path], typer.Option()],
    model: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER")] = None,
    section: Annotated[list[str] | None, typer.Option()] = None,
    weights: str = "laptop",
    count: int = 100,
    steps: int | None = None,
    out: Path = Path("outputs/tables"),
) -> None:
    """Draw `count` sequences of each model into `out`; cohorts, models and sections may be given several times."""
    there = [pair for name, pair in EVALUATORS.items() if (data_root() / "pretrained" / name).is_dir()]
    evaluators = {argument: load() for argument, load in there} | {"sections": section or SECTIONS}
    options = {} if steps is None else {"num_inference_steps": steps}
    pipe, gan = load_pretrained(weights), load_stylegan2()
    models = {pipe.variant: (pipe, options), "ldm": (pipe, options | {"structure_scale": 0.0})}
    models |= {name: (load_pretrained(folder), options) for name, folder in (one.split("=", 1) for one in model or ())}
    for opened in map(Cohort.open, cohort):
        kind = "simulated" if opened.simulated else "real"
        for name, (sampler, own) in (models | {"stylegan2": (gan, {})}).items():
            folder, key = out / opened.key / name, gan.key if sampler is gan else weights_key(sampler)
            drawn = draw_sets(DrawSpec(count, options=own), folder, sampler, opened)
            keep(evaluate(drawn, opened, name, **evaluators, references=name == pipe.variant, weights=key))
            if "reader" in evaluators and (drawn.table["idh"] != "").any():
                spec = DrawSpec(count, idh="swapped", options=own)
                swapped = draw_sets(spec, folder.with_name(f"{name}-swapped"), sampler, opened)
                keep(word_figures(evaluators["reader"], drawn, swapped, model=name, weights=key, cohort=kind))
        truth, key = np.asarray(opened.images[drawn.table["row"]]), weights_key(pipe)
        decoded, patients = reconstruct_slices(pipe.autoencoder, truth), drawn.table["patient"].to_numpy()
        keep(autoencoder_figures(truth, decoded, patients, weights=key, cohort=kind))
        images_of = {"autoencoder": np.round(255 * decoded).astype(np.uint8), **spoilt(truth)}
        for name, images in images_of.items():
            keep(evaluate(replace(drawn, images=images), opened, name, **evaluators, references=False, weights=key))


if __name__ == "__main__":
    typer.run(main)
