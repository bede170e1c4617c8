"""Train the evaluators: the feature network of FD-MR, the second CLIP, and the readers.

    python -m experiments.evaluators all --cohort outputs/cohort --cohort outputs/real

Each learns from training patients alone, and from no generator. A run that was cut off goes on in `--work`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, VisionTextDualEncoderConfig

from mrtutor.data.cohort import Cohort, choose_rows
from mrtutor.files import data_root, replace_folder, write_checksums, write_text
from mrtutor.metrics.distances import Features, shipped
from mrtutor.metrics.evaluators import WORDS
from mrtutor.metrics.prompts import build_scorer
from mrtutor.models.precision import autocast_dtype, mixed_precision
from mrtutor.models.text import build_tokenizer
from mrtutor.presets import StagePreset
from mrtutor.training.data import ANY, FACTS, TrainingSlices
from mrtutor.training.loop import Logs, Stage, fit
from mrtutor.training.objectives import ContrastiveObjective

RECIPES = {  # with the seed; MR-CLIP's is 0
    "features": (2, StagePreset(1600, 16, 1e-3, weight_decay=0.02, ema_decay=0.99, warmup=50)),
    "scoring_clip": (7, StagePreset(1000, 24, 1.5e-3, weight_decay=0.02, ema_decay=0.99, warmup=40)),
    "readers": (1, StagePreset(800, 32, 1e-3, weight_decay=0.02, ema_decay=0.99)),
}
QUESTIONS = [name for name in FACTS if name != "simulated"]  # that the feature network answers in training


@dataclass
class Views:
    """Random slices, mirrored or not, and shifted: image (B, 1 or 4, side, side) in [-1, 1], facts (B, P)."""

    slices: TrainingSlices
    whole: bool = False  # all four modalities
    noise: float = 0.0  # largest sd, with another gain. None for features: they have to see noise in a drawn slice
    shrink: int = 1

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        draw = self.slices.draw(count, generator)
        draw = draw._replace(view=draw.view % 2)
        pairs = zip(draw.index.tolist(), draw.view.tolist(), strict=True)
        image = torch.from_numpy(np.stack([self.slices.pictures(*pair)[0] for pair in pairs])).float() / 255
        if self.whole:  # with one slice in ten left out: real patients lack some, too
            image = image * (torch.rand(*image.shape[:2], 1, 1, generator=generator) >= 0.1)
        else:
            image = image[torch.arange(count), draw.modality][:, None]
        shift = (torch.randint(17, (2,), generator=generator) - 8).tolist()  # pixels
        image = F.avg_pool2d(image.roll(shift, dims=(-2, -1)), self.shrink)
        if self.noise:
            gain, noise = torch.rand(2, count, 1, 1, 1, generator=generator)
            noise = self.noise * noise * torch.randn(image.shape, generator=generator)
            image = (image * (0.9 + 0.2 * gain)).clamp(max=1) + noise
        return {"image": image * 2 - 1, "facts": self.slices.facts(draw)}


def answers(
    questions: Sequence[str], model: nn.Module, batch: dict[str, Tensor], generator: Generator
) -> tuple[Tensor, Logs]:
    """Objective: cross-entropies of questions of `FACTS` about slices, over those whose answer is known."""
    loss, logs = 0.0, {}
    said = model(batch["image"]).logits.float().split([len(FACTS[name]) for name in questions], dim=1)
    for name, logits in zip(questions, said, strict=True):
        label = batch["facts"][:, list(FACTS).index(name)]
        known = (label != ANY).sum().clamp(min=1)
        losses = F.cross_entropy(logits, label, ignore_index=ANY, label_smoothing=0.05, reduction="sum")
        loss, logs[name] = loss + losses / known, (logits.argmax(dim=1) == label).sum() / known
    return loss, logs


def reference(network: nn.Module, cohorts: Sequence[Cohort], most: int = 180) -> dict[str, Tensor]:
    """Features "train" and "held_out" (n, 4, D) of some slices and "…_patients" (n,), for where no cohort is."""
    tensors, features = {}, Features(network)
    for name, split in (("train", "train"), ("held_out", "test")):
        counts = {cohort: min(most, len(cohort.rows(split))) for cohort in cohorts}
        pairs = [(cohort, choose_rows(cohort, n, split=split, tumour=None)) for cohort, n in counts.items()]
        people = np.concatenate([cohort.table["patient"].to_numpy()[chosen] for cohort, chosen in pairs])
        found = np.concatenate([features(cohort.images[chosen]) for cohort, chosen in pairs])
        tensors[name] = torch.from_numpy(found).half()
        tensors[f"{name}_patients"] = torch.from_numpy(np.unique(people, return_inverse=True)[1]).int()
    return tensors


def train_evaluator(which: str, cohorts: Sequence[Cohort], out: Path, work: Path, steps: int | None = None) -> None:
    """Train one of `RECIPES` and write weights, card and checksums to the folder `out`."""
    slices, tokenizer, (seed, recipe) = TrainingSlices(cohorts), build_tokenizer(), RECIPES[which]
    recipe = replace(recipe, steps=steps or recipe.steps)

    def learn(name: str, build: Callable[[], nn.Module], objective: Callable, **views: object) -> nn.Module:
        torch.manual_seed(seed)  # initial weights
        stage = Stage(name, build(), objective, Views(slices, **views), recipe, inputs={"cohorts": slices.key()})
        options = {"resume": True, "mixed_precision": mixed_precision(autocast_dtype("cpu"))}
        return fit(stage, work / name, seed=seed, **options).to(memory_format=torch.contiguous_format)

    def classifier(name: str, channels: int, questions: Sequence[str], **views: object) -> nn.Module:
        sizes = {"num_channels": channels, "num_labels": sum(len(FACTS[question]) for question in questions)}
        config = ResNetConfig.from_pretrained(shipped("features"), **sizes)
        return learn(name, lambda: ResNetForImageClassification(config), partial(answers, questions), **views)

    if which == "features":
        parts = {"": classifier(which, 1, QUESTIONS).resnet}
        tensors = reference(parts[""].float(), cohorts)
    elif which == "scoring_clip":
        config = VisionTextDualEncoderConfig.from_pretrained(shipped("scoring_clip"))
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        config.text_config.update(sizes | ends)
        parts = {"": learn(which, lambda: build_scorer(config), ContrastiveObjective(tokenizer), noise=0.04)}
    else:
        parts = {"modality": classifier("modality", 1, ["modality"], noise=0.02, shrink=2)}
        parts["idh"] = classifier("idh", 4, ["idh"], whole=True, noise=0.02, shrink=2)
        parts["words"] = classifier("words", 4, list(WORDS), whole=True, noise=0.02, shrink=2)
    names = ", ".join(f"{'simulated' if cohort.simulated else 'real'} ({cohort.key})" for cohort in cohorts)
    card = f"# {which}\n\nTrained by `experiments.evaluators` on training patients of these cohorts: {names};\n"
    card += f"{recipe.steps} steps of {recipe.batch_size}, seed {seed}. It guides no generator. Not for diagnosis.\n"
    with replace_folder(out) as temporary:
        for name, part in parts.items():
            part.half().save_pretrained(temporary / name)
        if which == "features":
            save_file(tensors, temporary / "reference.safetensors")
        if which == "scoring_clip":
            tokenizer.save_pretrained(temporary)
        write_text(temporary / "README.md", card)
        write_checksums(temporary)


def main(
    which: str,
    cohort: Annotated[list[Path], typer.Option()],
    steps: int | None = None,
    out: Path | None = None,
    work: Path = Path("outputs/evaluators"),
) -> None:
    """Train `which`: features, scoring_clip, readers or all."""
    for name in RECIPES if which == "all" else [which]:
        folder = (out or data_root() / "pretrained") / name
        train_evaluator(name, [Cohort.open(path) for path in cohort], folder, work / name, steps)


if __name__ == "__main__":
    typer.run(main)
