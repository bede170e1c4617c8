"""The independent reader: two small ResNets that read modality and IDH type from pictures.

They are trained on slices of the cohort's training patients and never used to train or to guide a generator, so what
they say of a generated picture is a second opinion. The modality reader sees one slice, the IDH reader a sequence of
four modalities (in one slice the type often cannot be seen at all).

Axes: B batch · M = 4 modalities · H, W image pixels (256).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from mrtutor.data.cohort import Cohort
from mrtutor.files import replace_folder, write_json
from mrtutor.presets import StagePreset
from mrtutor.training.batches import cohort_key, idh_index, pick
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import Logs
from mrtutor.vocabulary import IDH, Modality

RECIPE = StagePreset(800, 32, 1e-3, weight_decay=0.02, ema_decay=0.99, checkpoint_every=800)
# Half the resolution is enough to read a contrast, at a quarter of the cost. More of anything helps little: three times
# the steps name .956 of 800 validation slices (these .946), all pixels, folded into channels, with T1 and T1Gd twice as
# often .952 of 1,420. Each finds .99 of T1 but only .82 to .86 of T1Gd: where little agent shows, that is a T1 slice.
# A reader of 256 pixels that pools by the maximum (.960) takes one generated T2 in six for another modality.
SIDE = 128


def build_reader(channels: int, labels: int) -> ResNetForImageClassification:
    """A small residual network (He et al., CVPR 2016) in the standard `transformers` class."""
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=channels,
            embedding_size=32,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            num_labels=labels,
        )
    )


def shrink(images: Tensor) -> Tensor:
    """(B, C, 256, 256) in [0, 1] -> (B, C, 128, 128) in [-1, 1] by averaging."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="area") * 2 - 1


def cross_entropy(model: nn.Module, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
    """Objective of both readers."""
    logits = model(batch["image"]).logits
    loss = F.cross_entropy(logits.float(), batch["label"], label_smoothing=0.05)
    return loss, {"accuracy": (logits.argmax(dim=-1) == batch["label"]).float().mean()}


@dataclass
class ReaderBatches:
    """Random training slices, mirrored, shifted, brightened and softly noised, so that readers go by contrast.

    `whole` gives sequences (B, 4, …) labelled by IDH type, else single slices (B, 1, …) labelled by modality.
    """

    cohort: Cohort
    rows: np.ndarray
    whole: bool

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        rows = self.rows[pick(len(self.rows), count, generator).numpy()]
        images = torch.from_numpy(self.cohort.images[rows]).float() / 255
        modality = pick(len(Modality), count, generator)
        label = idh_index(self.cohort, rows) if self.whole else modality
        images = images if self.whole else images[torch.arange(count), modality][:, None]
        flip, gain, dy, dx = torch.rand(4, generator=generator).tolist()
        images = images.roll((int(dy * 17) - 8, int(dx * 17) - 8), dims=(-2, -1))
        images = images.flip(-1) if flip < 0.5 else images
        small = shrink((images * (0.9 + 0.2 * gain)).clamp(0, 1))
        return {"image": small + 0.02 * torch.randn(small.shape, generator=generator), "label": label}


@dataclass(frozen=True)
class Reader:
    """Reads modality words from slices and IDH types from sequences."""

    modality: ResNetForImageClassification
    idh: ResNetForImageClassification

    @torch.inference_mode()
    def read_modality(self, slices: Tensor) -> Tensor:
        """Slices (B, 256, 256) in [0, 1] -> index in `Modality`, (B,)."""
        return self.modality(shrink(slices[:, None].float())).logits.argmax(dim=-1)

    @torch.inference_mode()
    def read_idh(self, sequences: Tensor) -> Tensor:
        """Sequences (B, 4, 256, 256) in [0, 1], in the order of `Modality` -> index in `IDH`, (B,)."""
        return self.idh(shrink(sequences.float())).logits.argmax(dim=-1)

    @classmethod
    def load(cls, folder: Path) -> "Reader":
        """Reader saved by `train_reader`."""
        parts = [ResNetForImageClassification.from_pretrained(folder / name).eval() for name in ("modality", "idh")]
        return cls(*parts)


def train_reader(cohort: Cohort, folder: Path, *, seed: int = 1, recipe: StagePreset = RECIPE) -> Reader:
    """Train the two networks on the cohort's training patients, if `folder` does not hold them already.

    Those of another cohort (they may know the test patients), seed or recipe are thrown away.

    Raises:
        ValueError: networks of unknown origin in `folder`.
    """
    of = {"cohort": cohort_key(cohort), "seed": seed, "side": SIDE, "recipe": str(recipe)}
    about, parts = folder / "of.json", [folder / name for name in ("modality", "idh", "runs")]
    known = json.loads(about.read_text()) if about.is_file() else None
    if known is None and any(part.exists() for part in parts):
        raise ValueError(f"Nobody knows which patients the reader in {folder} was trained on: give another folder.")
    if known != of:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
        write_json(about, of)
    for name, channels, labels in (("modality", 1, len(Modality)), ("idh", len(Modality), len(IDH))):
        if (folder / name).is_dir():
            continue
        torch.manual_seed(seed)
        batches = ReaderBatches(cohort, cohort.rows("train"), whole=name == "idh")
        stage = Stage(f"reader-{name}", build_reader(channels, labels), cross_entropy, batches, recipe)
        model = fit(stage, folder / "runs" / name, seed=seed, resume=True)
        with replace_folder(folder / name) as temporary:
            model.to(memory_format=torch.contiguous_format).save_pretrained(temporary)
    return Reader.load(folder)
