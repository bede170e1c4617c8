"""The four stages of a preset: autoencoder, text, denoiser, guidance.

Each reads what the earlier ones left in the run's folder and leaves a standard component folder there:
`autoencoder/`, `text_encoder/`, `tokenizer/`, `clip/`, `unet/` (the plain LDM), `guidance-A/` … or `unet-D/`.
Checkpoints, logs and sample sheets stand in `runs/<stage>/`.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig

from mrtutor.data.cohort import Cohort
from mrtutor.data.paraphrases import paraphrases
from mrtutor.files import replace_folder
from mrtutor.models.autoencoder import build_autoencoder, encode, set_latent_statistics
from mrtutor.models.denoiser import build_denoiser, build_scheduler, widen_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, build_guidance, exit_parameters
from mrtutor.models.hub import INSTALL, HubSources, load_unet
from mrtutor.models.text import build_clip, build_tokenizer, encode_prompts, load_text_encoder
from mrtutor.presets import Preset, StagePreset
from mrtutor.sampling.precision import autocast_dtype
from mrtutor.training.batches import LatentBatches, PromptTable, SliceBatches, cache_latents, cohort_key
from mrtutor.training.contrastive import ContrastiveObjective
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import AutoencoderObjective, DiffusionObjective, guidance_groups
from mrtutor.training.validation import AutoencoderValidation, DiffusionValidation, spread
from mrtutor.vocabulary import IDH, Modality, prompt

STAGES = ("autoencoder", "text", "denoiser", "guidance")
EXIT_FACTOR = 4.0  # zero convolutions learn so much faster than the cloned encoder


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


def train(run: Run, stage: str, *, variant: Variant | None = None, resume: bool = False) -> Path:
    """Train one stage and save its component; returns the component's folder.

    An autoencoder or a text encoder of `Run.hub` is copied instead of trained: both stay frozen (Eq. 1).

    Raises:
        ValueError: unknown stage, or variant NONE for the guidance stage.
        FileNotFoundError: an earlier stage has not run.
    """
    builders = {"autoencoder": _autoencoder, "text": _text, "denoiser": _denoiser}
    if stage not in STAGES:
        raise ValueError(f"Unknown stage {stage!r}: expected one of {', '.join(STAGES)}.")
    if stage == "guidance":
        variant = Variant(variant or run.preset.variant)
        if variant is Variant.NONE:
            raise ValueError("The guidance stage needs a variant: A, B, C or D.")
    if stage in run.given:
        if run.processes.is_main_process:
            INSTALL[stage](run.given[stage], run.folder)
        run.processes.wait_for_everyone()
        return run.folder / ("text_encoder" if stage == "text" else stage)
    name = f"guidance-{variant}" if stage == "guidance" else stage
    torch.manual_seed(run.seed)  # initial weights
    with run.processes.main_process_first():  # the others find the cached latents
        work = _guidance(run, variant) if stage == "guidance" else builders[stage](run)
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(run.precision, "no")
    tags = {"preset": run.preset.name, "cohort": cohort_key(run.cohort)}
    work = replace(work, name=name, tags=tags)
    model = fit(
        work, run.folder / "runs" / name, seed=run.seed, resume=resume, device=run.device, mixed_precision=mixed
    )
    if run.processes.is_main_process:
        _save(run, stage, variant, model)
    run.processes.wait_for_everyone()
    return run.folder / _component_name(stage, variant)


def _autoencoder(run: Run) -> Stage:
    settings = run.settings("autoencoder")
    rows = validation_rows(run.cohort, 24)
    modality = np.arange(len(rows)) % len(Modality)
    images = torch.from_numpy(run.cohort.images[rows, modality])[:, None].float() / 255
    validation = AutoencoderValidation(images, run.precision)
    return Stage(
        name="autoencoder",
        model=build_autoencoder(run.preset.autoencoder),
        objective=AutoencoderObjective(),
        batches=SliceBatches(run.cohort, run.cohort.rows("train"), settings.crop, run.preset.autoencoder.unshuffle),
        settings=settings,
        validate=validation,
        sheet=validation.sheet,
    )


def _text(run: Run) -> Stage:
    tokenizer = build_tokenizer(max_length=run.preset.text.max_length)
    if run.processes.is_main_process:
        with replace_folder(run.folder / "tokenizer") as temporary:
            tokenizer.save_pretrained(temporary)
    return Stage(
        name="text",
        model=build_clip(run.preset.text, tokenizer),
        objective=ContrastiveObjective(tokenizer),
        batches=SliceBatches(run.cohort, run.cohort.rows("train")),
        settings=run.settings("text"),
    )


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
    folder = run.component("autoencoder")
    autoencoder = AutoencoderKL.from_pretrained(folder).to(run.device, memory_format=torch.channels_last)
    weights = folder / "diffusion_pytorch_model.safetensors"
    latents = cache_latents(run.cohort, autoencoder, weights, run.folder / "runs", run.precision)
    rows = run.cohort.rows("train")
    return LatentBatches(run.cohort, rows, latents, prompt_table(run), run.preset.drop_prompt, with_structure)


def _denoiser(run: Run) -> Stage:
    objective = DiffusionObjective(build_scheduler(), tumour_weight=run.preset.tumour_weight)
    width = CLIPTextConfig.from_pretrained(run.component("text_encoder")).hidden_size
    unet = load_unet(run.hub.unet, width) if run.hub.unet else build_denoiser(run.preset.denoiser, width)
    return _diffusion_stage(run, "denoiser", unet, objective, latent_batches(run, with_structure=False))


def _guidance(run: Run, variant: Variant) -> Stage:
    unet = UNet2DConditionModel.from_pretrained(run.component("unet"))
    batches = latent_batches(run, with_structure=True)
    if variant is Variant.D:  # the whole U-Net goes on training, with the structure among its inputs
        wide = widen_input(unet, STRUCTURE_CHANNELS)
        objective = DiffusionObjective(
            build_scheduler(),
            variant,
            drop_structure=run.preset.drop_structure,
            tumour_weight=run.preset.tumour_weight,
        )
        return _diffusion_stage(run, "guidance", wide, objective, batches)
    frozen = unet.requires_grad_(False).eval().to(run.device, memory_format=torch.channels_last)
    autoencoder = None
    if variant is Variant.C:
        autoencoder = AutoencoderKL.from_pretrained(run.component("autoencoder")).requires_grad_(False).to(run.device)
    objective = DiffusionObjective(
        build_scheduler(), variant, frozen, autoencoder, tumour_weight=run.preset.tumour_weight
    )
    guidance = build_guidance(unet, variant).requires_grad_(True)
    if variant is Variant.A:  # its skip residuals lead nowhere, and several processes may not wait for their gradients
        guidance.controlnet_down_blocks.requires_grad_(False)
    rate = run.settings("guidance").learning_rate
    groups = guidance_groups(guidance, exit_parameters(guidance), rate, EXIT_FACTOR)
    return replace(_diffusion_stage(run, "guidance", guidance, objective, batches), groups=groups)


def _diffusion_stage(
    run: Run, name: str, model: nn.Module, objective: DiffusionObjective, batches: LatentBatches
) -> Stage:
    if run.device == "cpu":  # a tenth faster there than torch's fused attention, whose backward pass is slow
        model.set_attn_processor(AttnProcessor())
    validation = DiffusionValidation(objective, batches, validation_rows(run.cohort, 64), run.precision)
    return Stage(name, model, objective, batches, run.settings(name), validate=validation)


def validation_rows(cohort: Cohort, count: int) -> np.ndarray:
    """Rows of the validation split, spread over its patients (of the training split if a tiny cohort has none)."""
    rows = cohort.rows("validation")
    return spread(rows if len(rows) else cohort.rows("train"), count)


def _component_name(stage: str, variant: Variant | None) -> str:
    names = {"autoencoder": "autoencoder", "text": "clip", "denoiser": "unet"}
    return names.get(stage) or ("unet-D" if variant is Variant.D else f"guidance-{variant}")


def _save(run: Run, stage: str, variant: Variant | None, model: nn.Module) -> None:
    if stage == "autoencoder":
        _store_statistics(run, model)
    model.to("cpu", memory_format=torch.contiguous_format)
    with replace_folder(run.folder / _component_name(stage, variant)) as temporary:
        model.save_pretrained(temporary)
    if stage == "text":  # the generator needs the text half alone; scoring (CLIP score) needs both
        with replace_folder(run.folder / "text_encoder") as temporary:
            model.text_model.save_pretrained(temporary)


@torch.inference_mode()
def _store_statistics(run: Run, model: AutoencoderKL, count: int = 64) -> None:
    """Mean and spread of each raw latent channel over training slices, all four modalities."""
    channels = model.config.latent_channels
    model.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    images = torch.from_numpy(run.cohort.images[spread(run.cohort.rows("train"), count)])
    images = images.flatten(0, 1)[:, None].float() / 127.5 - 1
    set_latent_statistics(model, torch.cat([encode(model, part.to(run.device)) for part in images.split(8)]))
