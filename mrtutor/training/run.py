"""One training run: a preset on a cohort in a folder, and what its stages share.

Axes: B batch · P sentences · L tokens · D text width.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL

from mrtutor.data.cohort import Cohort
from mrtutor.data.paraphrases import paraphrases
from mrtutor.files import sha256
from mrtutor.models.hub import HubSources
from mrtutor.models.text import encode_prompts, load_text_encoder
from mrtutor.presets import Preset, StagePreset
from mrtutor.sampling.precision import autocast_dtype
from mrtutor.training.batches import LatentBatches, PromptTable, cache_latents, cohort_key, label_keys
from mrtutor.training.validation import spread
from mrtutor.vocabulary import IDH, Modality, prompt

STAGES = ("autoencoder", "text", "denoiser", "guidance")
AFTERWARDS = "decoder"  # may follow at any time: the latents stay as they are
READS = {
    "decoder": ("autoencoder",),
    "denoiser": ("autoencoder", "text_encoder"),
    "guidance": ("autoencoder", "text_encoder", "unet"),
}


@dataclass(frozen=True)
class Run:
    """One training run of a preset on a cohort; `folder` holds everything it makes."""

    preset: Preset
    cohort: Cohort
    folder: Path
    seed: int = 0
    device: str = "cpu"
    steps: int | None = None  # overrides the preset's
    hub: HubSources = field(default_factory=HubSources)  # components that are not trained from nothing
    start: Path | None = None  # a finished round of variant D that the guidance stage goes on from

    @property
    def processes(self) -> PartialState:
        """The processes of this run: one, unless `accelerate launch` started more."""
        return PartialState(cpu=self.device == "cpu")

    @cached_property
    def precision(self) -> torch.dtype:
        """Data type of autocast that is fastest on this device."""
        return autocast_dtype(self.device)

    @property
    def given(self) -> dict[str, str]:
        """Stages that need no training, and where their component comes from."""
        sources = {"autoencoder": self.hub.vae, "text": self.hub.text_encoder or self.preset.hub_text}
        return {stage: source for stage, source in sources.items() if source}

    @property
    def origin(self) -> dict:
        """What trains here, on what: for the model card."""
        table, gpu = self.cohort.table, self.device.startswith("cuda")
        device = torch.cuda.get_device_name() if gpu else f"{self.device}, {torch.get_num_threads()} threads"
        return {
            "source": ", ".join(sorted(set(table["source"]))),
            "patients": table["subject_id"].nunique(),
            "cohort_seed": self.cohort.manifest.get("seed"),
            "cohort": cohort_key(self.cohort),
            "device": device,
        }

    def inputs(self, stage: str) -> dict[str, str]:
        """Keys of what the stage reads, for its checkpoint: labels, masks, earlier components, where it starts."""
        names = READS.get(stage, ())
        folders = {name: self.start if name == "unet" and self.start else self.component(name) for name in names}
        keys = {name: _weights_key(folder) for name, folder in folders.items()}
        if stage == "denoiser":
            keys["start"] = self.hub.unet or "nothing"
        return label_keys(self.cohort) | keys

    def settings(self, stage: str) -> StagePreset:
        """The stage's recipe, with the number of steps overridden if asked."""
        settings = self.preset.stages[stage]
        return replace(settings, steps=self.steps) if self.steps else settings

    def component(self, name: str) -> Path:
        """Folder of a finished component.

        Raises:
            FileNotFoundError: its stage has not run yet.
        """
        path = self.folder / name
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path} is missing: train the earlier stages first, in the order {', '.join(STAGES)} "
                f"(mrtutor train STAGE --preset {self.preset.name} --out {self.folder})."
            )
        return path


def _weights_key(folder: Path) -> str:
    """Twelve hex digits that change with a component's weights."""
    sums = [sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:12]


def prompt_table(run: Run) -> PromptTable:
    """Embeddings of the empty prompt and of every training paraphrase; the canonical sentence stands first."""
    encoder, tokenizer = load_text_encoder(run.component("text_encoder").parent)
    sentences, rows = [""], {}
    for m, modality in enumerate(Modality):
        for i, idh in enumerate(IDH):
            group = list(dict.fromkeys([prompt(modality, idh), *paraphrases(modality, idh, split="train")]))
            rows[m, i] = torch.arange(len(sentences), len(sentences) + len(group))
            sentences += group
    parts = [sentences[i : i + 256] for i in range(0, len(sentences), 256)]
    return PromptTable(torch.cat([encode_prompts(encoder, tokenizer, part) for part in parts]), rows)


def latent_batches(run: Run, with_structure: bool) -> LatentBatches:
    """Training rows as cached latents, with their sentences and, if asked for, their structures."""
    folder = run.component("autoencoder")
    autoencoder = AutoencoderKL.from_pretrained(folder).to(run.device, memory_format=torch.channels_last)
    weights = folder / "diffusion_pytorch_model.safetensors"
    latents = cache_latents(run.cohort, autoencoder, weights, run.folder / "runs", run.precision)
    rows = run.cohort.rows("train")
    return LatentBatches(run.cohort, rows, latents, prompt_table(run), run.preset.drop_prompt, with_structure)


def validation_rows(cohort: Cohort, count: int) -> np.ndarray:
    """Rows of the validation split, spread over its patients (of the training split if a tiny cohort has none)."""
    rows = cohort.rows("validation")
    return spread(rows if len(rows) else cohort.rows("train"), count)
