"""Train the MR feature network of `mrtutor.metrics.features`: once, on the cohort's training slices.

Three questions at once, a linear head for each: which modality, which IDH type, how large a tumour. The independent
reader learns the first two from the same slices, with another seed, at half the resolution, the type from four slices.

Axes: B batch · H, W image pixels (256). Images are in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from transformers import ResNetConfig, ResNetModel

from mrtutor.data.cohort import Cohort
from mrtutor.files import atomic_path, replace_folder, write_checksums, write_text
from mrtutor.metrics.features import REFERENCE, Features, load_features
from mrtutor.presets import StagePreset
from mrtutor.training.batches import idh_index, pick
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import Logs
from mrtutor.training.validation import spread
from mrtutor.vocabulary import IDH, Modality

SEED = 2  # the reader's is 1
RECIPE = StagePreset(1600, 16, 1e-3, weight_decay=0.02, ema_decay=0.99, warmup=50, checkpoint_every=50)
JUDGED = 120  # test rows on which the card's accuracies stand
AREA_EDGES_MM2 = (629.0, 975.0, 1334.5)  # quartiles of the tumour areas of the shipped cohort (seed 0)
HEADS = {"modality": len(Modality), "idh": len(IDH), "area": len(AREA_EDGES_MM2) + 1}


def build_network() -> ResNetModel:
    """A small residual network (He et al., CVPR 2016) in the standard `transformers` class, one channel in."""
    return ResNetModel(
        ResNetConfig(
            num_channels=1,
            embedding_size=32,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
        )
    )


class MultiTask(nn.Module):
    """The network with one linear head for each question; the heads are thrown away after training."""

    def __init__(self, network: ResNetModel):
        super().__init__()
        self.network = network
        width = network.config.hidden_sizes[-1]
        self.heads = nn.ModuleDict({name: nn.Linear(width, labels) for name, labels in HEADS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 1, 256, 256) in [-1, 1] -> logits of each head."""
        pooled = self.network(images).pooler_output.flatten(1)
        return {name: head(pooled) for name, head in self.heads.items()}


def three_questions(model: nn.Module, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
    """Objective: the sum of three cross-entropies."""
    logits = model(batch["image"])
    losses = [F.cross_entropy(logits[name].float(), batch[name], label_smoothing=0.05) for name in HEADS]
    return sum(losses), {name: (logits[name].argmax(dim=1) == batch[name]).float().mean() for name in HEADS}


def labels_of(cohort: Cohort, rows: np.ndarray, modality: Tensor) -> dict[str, Tensor]:
    """Answers to the three questions, each (B,)."""
    area = cohort.table["tumour_px"].to_numpy()[rows]  # pixels of 1 mm² before the step to 256
    bins = torch.from_numpy(np.digitize(area, AREA_EDGES_MM2))
    return {"modality": modality, "idh": idh_index(cohort, rows), "area": bins}


@dataclass
class FeatureBatches:
    """Random slices of `rows`, mirrored half of the time and shifted by up to 8 pixels.

    Neither blurred nor noised: a network trained to overlook both would not see them in a generated slice either.
    """

    cohort: Cohort
    rows: np.ndarray

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        rows = self.rows[pick(len(self.rows), count, generator).numpy()]
        modality = pick(len(Modality), count, generator)
        image = torch.from_numpy(self.cohort.images[rows, modality.numpy()])[:, None].float() / 127.5 - 1
        dy, dx = (pick(17, 2, generator) - 8).tolist()
        image = image.roll((dy, dx), dims=(-2, -1))
        if torch.rand(1, generator=generator).item() < 0.5:
            image = image.flip(-1)
        return {"image": image, **labels_of(self.cohort, rows, modality)}


def train_features(
    cohort: Cohort,
    folder: str | Path,
    *,
    seed: int = SEED,
    recipe: StagePreset = RECIPE,
    run: str | Path | None = None,
    mixed_precision: str = "no",
    stop_after: int | None = None,
) -> Features:
    """Train on the cohort's training patients and write float16 safetensors, a card and checksums to `folder`.

    Args:
        run: where checkpoints and log go, default ``<folder>-run``; a run that was cut off goes on there.
        mixed_precision: "no", "bf16" or "fp16".
        stop_after: take the averaged weights of this step, before the recipe's end.
    """
    folder = Path(folder)
    run = Path(run or folder.with_name(f"{folder.name}-run"))
    torch.manual_seed(seed)
    batches = FeatureBatches(cohort, cohort.rows("train"))
    stage = Stage("features", MultiTask(build_network()), three_questions, batches, recipe)
    model = fit(stage, run, seed=seed, resume=True, mixed_precision=mixed_precision, stop_after=stop_after)
    rows = spread(cohort.rows("test"), JUDGED)
    figures = accuracies(model, cohort, rows)
    network = model.network.to(memory_format=torch.contiguous_format).half()
    with replace_folder(folder) as temporary:
        network.save_pretrained(temporary, safe_serialization=True)
        write_text(temporary / "README.md", _card(cohort, seed, recipe, stop_after or recipe.steps, len(rows), figures))
        write_checksums(temporary)
    write_reference(cohort, folder)
    return load_features(folder)


@torch.inference_mode()
def accuracies(model: MultiTask, cohort: Cohort, rows: np.ndarray) -> dict[str, float]:
    """Share of right answers to each question over the four slices of each row."""
    right: dict[str, list[Tensor]] = {name: [] for name in HEADS}
    for row in rows:
        image = torch.from_numpy(np.array(cohort.images[row]))[:, None].float() / 127.5 - 1
        labels = labels_of(cohort, np.full(len(Modality), row), torch.arange(len(Modality)))
        for name, logits in model(image).items():
            right[name].append(logits.argmax(dim=1) == labels[name])
    return {name: float(torch.cat(values).float().mean()) for name, values in right.items()}


def write_reference(cohort: Cohort, folder: str | Path, count: int = 180, seed: int = 0) -> None:
    """Keep features of `count` training and `count` held-out rows beside the network, for where no cohort is."""
    folder = Path(folder)
    features, rng = load_features(folder), np.random.default_rng(seed)
    people = np.unique(cohort.table["subject_id"].to_numpy(), return_inverse=True)[1]
    held_out = np.concatenate([cohort.rows(split) for split in ("validation", "test")])
    tensors = {}
    for name, rows in (("train", cohort.rows("train")), ("held_out", held_out)):
        rows = np.sort(rng.choice(rows, min(count, len(rows)), replace=False))
        tensors[name] = torch.from_numpy(features.of_rows(cohort, rows, name)).half()
        tensors[f"{name}_patients"] = torch.from_numpy(people[rows]).int()
    with atomic_path(folder / REFERENCE) as temporary:
        save_file(tensors, temporary)
    write_checksums(folder)


def _card(cohort: Cohort, seed: int, recipe: StagePreset, done: int, judged: int, figures: dict[str, float]) -> str:
    return _CARD.format(
        train=len(cohort.rows("train")),
        test=judged,
        cohort_seed=cohort.manifest.get("seed"),
        key=cohort.manifest["sha256"]["slices.npy"][:12],
        edges=", ".join(f"{edge:g}" for edge in AREA_EDGES_MM2),
        steps=recipe.steps,
        done=done,
        batch=recipe.batch_size,
        seed=seed,
        lines="\n".join(f"| {name} | {value:.3f} | {1 / HEADS[name]:.2f} |" for name, value in figures.items()),
    )


_CARD = """# MR feature network

A small `transformers.ResNetModel` (one channel, 256 x 256, basic blocks of 32, 64, 96 and 128 channels; 128 pooled
features) in which generated and simulated slices are compared: Fréchet distance, KID, two-sample test.

- Trained on {train} training slices x 4 modalities of the simulated cohort (seed {cohort_seed}, slices.npy {key}).
- Task: modality, IDH type, and tumour area in four bins (edges at {edges} mm²), three linear heads at once.
- Recipe: {done} of {steps} steps, batch {batch}, seed {seed}; slices mirrored and shifted, neither blurred nor
  noised.
- The independent reader is its kin: it learns modality and IDH type from the same training slices, with another
  seed, at half the resolution, the type from four slices at once.
- No generator was ever conditioned on it, guided by it or trained with it.

| question | accuracy on {test} test slices x 4 | chance |
|---|---|---|
{lines}

Its distances compare models with each other in this course. They are on no scale but their own, least of all that of
Inception FID. Not for diagnosis. Files are float16 safetensors; `SHA256SUMS` is checked on load.
"""
