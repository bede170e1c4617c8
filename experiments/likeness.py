"""Real structure in, real look out: the edges of real test slices, and all four sequences drawn from them.

    python -m experiments.likeness --real outputs/real --model paper=laptop --model D=outputs/variants/D

T1Gd's edges are given (those of another sequence where a patient lacks it); each picture is compared with the true one
of its sequence. Beside the models stand "truth" and "autoencoder", the true slices decoded. Axes: n slices · M = 4.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from experiments.tables import autoencoder_figures, keep
from mrtutor import plot
from mrtutor.data.cohort import Cohort, choose_rows
from mrtutor.data.structure import canny
from mrtutor.figures import Figure
from mrtutor.metrics import distances, sequence
from mrtutor.metrics.intervals import estimate, ratio
from mrtutor.pipeline.draw import PipelineSampler, SequenceSpec, weights_key
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.vocabulary import Modality

CHUNK = 2  # sequences in a batch


def ask(cohort: Cohort, rows: list[int], seed: int) -> list[SequenceSpec]:
    """What each sequence is drawn from: the slice's T1Gd edges, its IDH type and findings."""
    specs = []
    for number, row in enumerate(rows):
        there = [m for m, has in zip(Modality, cohort.available[row], strict=True) if has]
        edges_of = Modality.T1GD if Modality.T1GD in there else there[0]
        about = {"patient": cohort.table["patient"].iat[row], "idh": cohort.idh(row), "edges_of": edges_of}
        about |= {"structure": cohort.structure(row, edges_of), "findings": cohort.findings(row)}
        specs.append(SequenceSpec(number, row, seed=int(np.random.default_rng([seed, row]).integers(2**62)), **about))
    return specs


def draw(pipe: MRPipeline, specs: list[SequenceSpec]) -> np.ndarray:
    """Sequences (n, M, 256, 256) uint8."""
    sampler = PipelineSampler(pipe)
    parts = [sampler.draw(specs[start : start + CHUNK]).numpy() for start in range(0, len(specs), CHUNK)]
    return np.round(255 * np.concatenate(parts)).astype(np.uint8)


def compare(images: np.ndarray, truth: np.ndarray, masks: np.ndarray, specs: list[SequenceSpec]) -> list[dict]:
    """Figures of drawn sequences beside the true ones, both (n, M, 256, 256) uint8; tumour masks (n, 256, 256)."""
    brains = np.stack([sequence.brain_of(one) for one in truth])
    patients, found = np.array([spec.patient for spec in specs]), []
    contrast, true_contrast = (distances.lesion_contrast(one, masks) for one in (images, truth))
    sharp, true_sharp = distances.sharpness(images), distances.sharpness(truth)
    correlation, pooled = sequence.each(sequence.ncc, images, truth, brains), {"truth_ncc": [], "edge_f1": []}
    for m, modality in enumerate(Modality):
        there = sequence.present(truth[:, m])
        ill = np.isfinite(contrast[:, m]) & np.isfinite(true_contrast[:, m])
        ones = [
            (a[brain], b[brain]) for a, b, brain in zip(images[there, m], truth[there, m], brains[there], strict=True)
        ]
        medians = np.array([[np.median(a), np.median(b)] for a, b in ones]) / 255
        edges = [sequence.edge_f1(canny(images[i, m]), specs[i].structure) for i in np.flatnonzero(there)]
        whose = patients[there]
        values = {
            "truth_ncc": estimate(correlation[there, m], whose),
            "sharpness_ratio": ratio(sharp[there, m], true_sharp[there, m], whose),
            "lesion_contrast": estimate(contrast[ill, m], patients[ill]),
            "median": estimate(medians[:, 0], whose),
            "median_difference": estimate(medians[:, 0] - medians[:, 1], whose),
            "edge_f1": estimate(edges, whose),
        }
        found += [{"metric": name, "group": str(modality), **vars(value)} for name, value in values.items()]
        for name, each in {"truth_ncc": correlation[there, m], "edge_f1": edges}.items():
            pooled[name] += zip(each, whose, strict=True)
        pair = contrast[ill, m], true_contrast[ill, m]
        numbers = {"value": float(np.corrcoef(*pair)[0, 1]), "n": int(ill.sum()), "patients": len(set(patients[ill]))}
        found.append({"metric": "lesion_contrast_r", "group": str(modality), **numbers})
    means = {name: estimate(*zip(*pairs, strict=True)) for name, pairs in pooled.items()}
    return found + [{"metric": name, "group": "mean", **vars(value)} for name, value in means.items()]


def main(
    real: Annotated[Path, typer.Option()],
    model: Annotated[list[str], typer.Option(metavar="NAME=FOLDER")],
    count: int = 30,
    seed: int = 0,
    split: str = "test",
    out: Path = Path("outputs/likeness"),
) -> None:
    """Draw `count` sequences of each model, record what they have of the true ones, and write a sheet of each."""
    cohort = Cohort.open(real)
    specs = ask(cohort, choose_rows(cohort, count, split=split, seed=seed), seed)
    rows = [spec.row for spec in specs]
    truth, masks = np.asarray(cohort.images[rows]), np.asarray(cohort.masks[rows])
    first = list({spec.patient: i for i, spec in reversed(list(enumerate(specs)))}.values())[::-1]
    for name, folder in (one.split("=", 1) for one in model):
        pipe = load_pretrained(folder)
        images = draw(pipe, specs)
        decoded = distances.reconstruct_slices(pipe.autoencoder, truth)
        about = {"cohort": "real", "seed": seed, "weights": weights_key(pipe)}
        keep(autoencoder_figures(truth, decoded, np.array([spec.patient for spec in specs]), **about))
        decoded, about["experiment"] = np.round(255 * decoded).astype(np.uint8), "likeness"
        for who, pictures in {name: images, "autoencoder": decoded, "truth": truth}.items():
            keep(Figure(model=who, **figures, **about) for figures in compare(pictures, truth, masks, specs))
        lines = {}
        for i in first:
            lines |= {f"{specs[i].patient}\nreal": [None, *truth[i]], f"drawn {i}": [specs[i].structure, *images[i]]}
        plot.sheet(lines, ["edges", *Modality], path=out / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
