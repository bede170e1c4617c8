"""Training the judge of `mrtutor.metrics.clip_score`: a second MR-CLIP, which no generator ever met."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mrtutor.data.cohort import Cohort
from mrtutor.data.paraphrases import canonical_prompts
from mrtutor.files import replace_folder, write_checksums, write_text
from mrtutor.metrics.clip_score import Scorer, build_scorer, load_scorer
from mrtutor.models.text import build_tokenizer
from mrtutor.presets import StagePreset
from mrtutor.sampling.precision import autocast_dtype, mixed_precision
from mrtutor.training.batches import idh_index, pick
from mrtutor.training.contrastive import ContrastiveObjective
from mrtutor.training.loop import Stage, fit
from mrtutor.vocabulary import IDH, Modality

SEED = 7  # MR-CLIP's is 0, the reader's 1, the feature network's 2
RECIPE = StagePreset(1000, 24, 1.5e-3, weight_decay=0.02, ema_decay=0.99, warmup=40, checkpoint_every=50)
OFTEN = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 3, 3])  # modalities of the training slices, in tenths


@dataclass
class ScoringBatches:
    """Training slices, IDH types equally often, T1 and T1Gd (the hard pair) more often than the other modalities.

    Shifted, brightened and softly noised. A batch: see `ContrastiveObjective`.
    """

    cohort: Cohort
    rows: np.ndarray

    @classmethod
    def of(cls, cohort: Cohort) -> "ScoringBatches":
        """Balanced rows of the training split."""
        by_type = [cohort.rows("train", idh) for idh in IDH]
        most = max(len(rows) for rows in by_type)
        return cls(cohort, np.concatenate([np.resize(rows, most) for rows in by_type]))

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        rows = self.rows[pick(len(self.rows), count, generator).numpy()]
        modality = OFTEN[pick(len(OFTEN), count, generator)]
        image = torch.from_numpy(self.cohort.images[rows, modality.numpy()])[:, None].float() / 255
        dy, dx = (pick(17, 2, generator) - 8).tolist()
        gain, noise = torch.rand(2, count, 1, 1, 1, generator=generator)
        image = (image.roll((dy, dx), dims=(-2, -1)) * (0.9 + 0.2 * gain)).clamp(0, 1) * 2 - 1
        image += 0.04 * noise * torch.randn(image.shape, generator=generator)
        return {"image": image, "modality": modality, "idh": idh_index(self.cohort, rows)}


def train_scorer(
    cohort: Cohort,
    folder: str | Path,
    *,
    seed: int = SEED,
    recipe: StagePreset = RECIPE,
    work: str | Path | None = None,
) -> Scorer:
    """Train on the cohort's training patients and write float16 safetensors, tokenizer, card and checksums.

    Args:
        work: folder of checkpoints and log, where a run that was cut off goes on; default ``<folder>-run``.
    """
    folder = Path(folder)
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    stage = Stage(
        "scoring CLIP", build_scorer(tokenizer), ContrastiveObjective(tokenizer), ScoringBatches.of(cohort), recipe
    )
    work = Path(work or folder.with_name(f"{folder.name}-run"))
    model = fit(stage, work, seed=seed, resume=True, mixed_precision=mixed_precision(autocast_dtype("cpu")))
    model = model.to(memory_format=torch.contiguous_format).float()
    split = "test" if len(cohort.rows("test")) else "train"
    figures = accuracy(Scorer("in training", model, tokenizer), cohort, cohort.rows(split))
    with replace_folder(folder) as temporary:
        model.half().save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        write_text(temporary / "README.md", _card(cohort, split, seed, recipe, figures))
        write_checksums(temporary)
    return load_scorer(folder)


def accuracy(scorer: Scorer, cohort: Cohort, rows: np.ndarray) -> dict[str, float]:
    """Share of cohort slices, all modalities of `rows`, whose nearest canonical prompt is right."""
    prompts, right = scorer.embed_sentences(canonical_prompts()), []
    idh = idh_index(cohort, rows).numpy()
    for m in range(len(Modality)):
        nearest = (scorer.embed_images(cohort.images[rows, m]) @ prompts.T).argmax(dim=1).numpy()
        right.append([nearest // len(IDH) == m, nearest % len(IDH) == idh])
    modality, types = np.array(right).transpose(1, 0, 2)  # each (4, n)
    shares = {"modality": modality, "idh": types, "both": modality & types}
    by_modality = {f"modality, {m}": modality[k] for k, m in enumerate(Modality)}
    by_modality |= {f"idh, {m}": types[k] for k, m in enumerate(Modality)}
    return {name: float(value.mean()) for name, value in (shares | by_modality).items()}


def _card(cohort: Cohort, split: str, seed: int, recipe: StagePreset, figures: dict[str, float]) -> str:
    n = len(cohort.rows(split))
    chance = {"modality": 1 / len(Modality), "idh": 1 / len(IDH), "both": 1 / (len(Modality) * len(IDH))}
    lines = [f"| {name} | {value:.3f} | {chance[name.split(',')[0]]:.3f} |" for name, value in figures.items()]
    about = f"cohort (seed {cohort.manifest.get('seed')}, slices.npy {cohort.manifest['sha256']['slices.npy'][:12]})"
    return "\n".join(
        [
            "# Scoring CLIP",
            "",
            "A `transformers.VisionTextDualEncoderModel` that judges whether a slice matches a sentence (Table 3).",
            "Its image half is a residual network on whole slices (pooling: half mean, half maximum), its text half a",
            "small CLIP text encoder with MR-CLIP's tokenizer.",
            "",
            f"- Trained on: {len(cohort.rows('train'))} training slices x {len(Modality)} modalities of the simulated",
            f"  {about}, IDH types equally often;",
            f"  {recipe.steps} steps, batch {recipe.batch_size}, seed {seed}.",
            "- Objective: that of MR-CLIP (`mrtutor.training.contrastive`); slices mirrored, shifted, brightened and",
            "  softly noised.",
            "- No generator was ever conditioned on it, guided by it or trained with it.",
            "",
            f"| nearest of the 8 prompts is right in | accuracy on {n} {split} slices x {len(Modality)} | chance |",
            "|---|---|---|",
            *lines,
            "",
            "Two ceilings lie below 1: the type often cannot be read from one slice of one modality, and a T1Gd slice",
            "without an enhancing tumour and without a vein in it is a T1 slice.",
            "Open it with `mrtutor.metrics.clip_score.load_scorer()`. Not for diagnosis.",
            "",
        ]
    )
