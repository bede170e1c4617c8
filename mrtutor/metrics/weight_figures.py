"""The figures of a model card, part by part; `mrtutor.metrics.weights` asks for those that are missing.

Each has N and interval, and its null or ceiling beside it.

Axes: n cases · M = 4 modalities · H, W image pixels. Images are floats in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mrtutor.data.cohort import Cohort
from mrtutor.data.nifti import read_folder
from mrtutor.data.prepare import prepare_subject
from mrtutor.data.simulate import simulate_subject
from mrtutor.metrics import generation, reconstruction
from mrtutor.metrics.cost import measure_in_own_process, sampling_cost, training_ratio
from mrtutor.metrics.generation import Cases
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.reader import Reader
from mrtutor.models.guidance import Variant


@dataclass(frozen=True)
class Evaluation:
    """What the parts share."""

    pipeline: object  # MRPipeline
    cohort: Cohort
    cases: Cases
    reader: Reader
    seed: int
    sequences: np.ndarray  # (n, 4, H, W) generated with canonical sentences
    real: tuple[Path, ...] = ()  # folders of real cases


def autoencoder_figures(e: Evaluation) -> dict:
    """PSNR, SSIM, tumour PSNR and rim contrast on unseen slices; and the ceiling that noise alone sets."""
    decoded = reconstruction.reconstruct_slices(e.pipeline.autoencoder, e.cases.images, torch.float32)
    by_slice = np.repeat(e.cases.patients, 4)
    rims = reconstruction.rim_contrast_ratio(e.cases.images, decoded, e.cases.masks)
    by_rim = e.cases.patients[reconstruction.has_rim(reconstruction.rim_contrast(e.cases.images, e.cases.masks))]
    return {
        "psnr_db": estimate(reconstruction.psnr(e.cases.images, decoded), by_slice),
        "ssim": estimate(reconstruction.ssim(e.cases.images, decoded), by_slice),
        "tumour_psnr_db": estimate(reconstruction.tumour_psnr(e.cases.images, decoded, e.cases.masks), by_slice),
        "rim_contrast_ratio": estimate(rims, by_rim),
        **noise_ceiling(e),
        **real_cases(e),
    }


def real_cases(e: Evaluation) -> dict:
    """PSNR and SSIM of the slices of real cases, which nothing was trained on; {} where none were given."""
    if not e.real:
        return {}
    slices = [prepare_subject(read_folder(folder)).images.astype(np.float32) / 255 for folder in e.real]
    images = np.concatenate(slices)
    decoded = reconstruction.reconstruct_slices(e.pipeline.autoencoder, images, torch.float32)
    patients = np.repeat(np.arange(len(slices)), [4 * len(s) for s in slices])
    return {
        "real_psnr_db": estimate(reconstruction.psnr(images, decoded), patients),
        "real_ssim": estimate(reconstruction.ssim(images, decoded), patients),
    }


def noise_ceiling(e: Evaluation, patients: int = 12) -> dict:
    """PSNR and SSIM of noisy against noise-free renderings of the same simulated patients: nobody can predict noise.

    {} for a cohort that was not simulated, whose patients have no noise-free rendering.
    """
    if "seed" not in e.cohort.manifest:
        return {}
    table = e.cohort.table.iloc[e.cases.rows]
    simulated = [s for s in dict.fromkeys(table["subject_id"]) if s.startswith("SIM-")][:patients]
    seed, psnr, ssim = int(e.cohort.manifest["seed"]), [], []
    for subject_id in simulated:
        number = int(subject_id.removeprefix("SIM-"))
        clean, noisy = (
            prepare_subject(simulate_subject(number, seed=seed, noise=noise)).images.astype(np.float32) / 255
            for noise in (False, True)
        )
        psnr.append(reconstruction.psnr(clean, noisy).mean())
        ssim.append(reconstruction.ssim(clean, noisy).mean())
    return {"ceiling_psnr_db": estimate(psnr), "ceiling_ssim": estimate(ssim)} if psnr else {}


def prompt_figures(e: Evaluation) -> dict:
    """What the independent reader reads, from generated and from cohort pictures."""
    other = generation.generate(e.pipeline, e.cases, seed=e.seed, wording="held_out")
    patients, idh = e.cases.patients, e.cases.idh
    return {
        "modality_accuracy": generation.modality_accuracy(e.reader, e.sequences, patients),
        "modality_accuracy_cohort": generation.modality_accuracy(e.reader, e.cases.images, patients),
        "paraphrase_modality_accuracy": generation.modality_accuracy(e.reader, other, patients),
        "idh_accuracy": generation.idh_accuracy(e.reader, e.sequences, idh, patients),
        "idh_accuracy_cohort": generation.idh_accuracy(e.reader, e.cases.images, idh, patients),
        "paraphrase_idh_accuracy": generation.idh_accuracy(e.reader, other, idh, patients),
    }


def structure_figures(e: Evaluation) -> dict:
    """Edge F1 of the shipped variant, between what is attainable, what the autoencoder costs, and the null."""
    cases, f1 = e.cases, generation.structure_f1
    decoded = reconstruction.reconstruct_slices(e.pipeline.autoencoder, cases.images, torch.float32)
    other = generation.of_another(cases.patients)
    variant = Variant(e.pipeline.config.variant)
    return {
        "shipped": str(variant),
        str(variant): f1(cases.structures, cases.edges_of, e.sequences, cases.patients),
        "attainable": f1(cases.structures, cases.edges_of, cases.images, cases.patients),
        "reconstruction": f1(cases.structures, cases.edges_of, decoded, cases.patients),
        "null": f1(cases.structures[other], cases.edges_of[other], e.sequences, cases.patients),
    }


def sequence_figures(e: Evaluation) -> dict:
    """SSIM, NMI and NCC of generated, cohort and randomly paired sequences."""
    patients = e.cases.patients
    sources = {
        "generated": (e.sequences, patients),
        "cohort": (e.cases.images, patients),
        "random": generation.random_sequences(e.cases.images, patients, e.seed),
    }
    figures = {name: generation.correspondence(*pair) for name, pair in sources.items()}
    return {metric: {name: figures[name][metric] for name in sources} for metric in ("ssim", "nmi", "ncc")}


def diversity_figures(e: Evaluation, structures: int = 4, seeds: int = 16) -> dict:
    """For one structure, the spread over seeds: mean standard deviation per brain pixel, inside and outside tumour."""
    inside, outside = [], []
    for i in np.linspace(0, len(e.cases) - 1, structures).astype(int):
        shots = np.stack(
            [
                np.stack(
                    [x.numpy() for x in e.pipeline.sequence(e.cases.idh[i], e.cases.structures[i], seed=s).values()]
                )
                for s in range(seeds)
            ]
        )
        spread = shots.std(axis=0).mean(axis=0)
        brain, tumour = e.cases.images[i].max(axis=0) > 0, e.cases.masks[i] > 0
        inside.append(spread[tumour].mean())
        outside.append(spread[brain & ~tumour].mean())
    return {"sd_in_tumour": estimate(inside), "sd_outside_tumour": estimate(outside), "seeds": seeds}


def cost_figures(e: Evaluation) -> dict:
    """Seconds and memory of a sequence, ours and the ordinary way; for D, how much faster our training step is."""
    folder = e.pipeline.name_or_path
    cost = measure_in_own_process(folder) if folder else sampling_cost(e.pipeline)
    only_unet = Variant(e.pipeline.config.variant) is Variant.D  # the others train a network beside the U-Net
    return cost | ({"train_ratio": training_ratio(e.pipeline, e.cohort)} if only_unet else {})
