"""The four stages of a preset: autoencoder, text, denoiser, guidance; and, whenever one likes, a crisper decoder.

Each reads what the earlier ones left in the run's folder and leaves a standard component folder there:
`autoencoder/`, `text_encoder/`, `tokenizer/`, `clip/`, `unet/` (the plain LDM), `guidance-A/` … or `unet-D/`, and
`unet-D-further/`, `unet-D-further-2/` … of further rounds, `decoder/` (the autoencoder, its decoder crisper).
Checkpoints, logs and sample sheets stand in `runs/<stage>/`; `runs/origin.json` says what each was trained on.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig

from mrtutor.files import replace_folder
from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.denoiser import build_denoiser, build_scheduler, widen_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, build_guidance, exit_parameters
from mrtutor.models.hub import INSTALL, load_unet
from mrtutor.models.mirror import save_mirrored
from mrtutor.models.residual import load_residual, save_residual
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.sampling.origin import record_origin
from mrtutor.sampling.precision import mixed_precision
from mrtutor.sampling.rounds import next_round, stage_of
from mrtutor.training.adversarial import AdversarialObjective, decoder_parameters
from mrtutor.training.batches import LatentBatches, SliceBatches, cohort_key
from mrtutor.training.contrastive import ContrastiveObjective
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import AutoencoderObjective, DiffusionObjective, Objective, guidance_groups
from mrtutor.training.run import AFTERWARDS, STAGES, Run, latent_batches, validation_rows
from mrtutor.training.statistics import lacking_grain, store_latent_statistics, training_slices
from mrtutor.training.validation import AutoencoderValidation, DiffusionValidation
from mrtutor.vocabulary import Modality

EXIT_FACTOR = 4.0  # zero convolutions learn so much faster than the cloned encoder


def train(run: Run, stage: str, *, variant: Variant | None = None, resume: bool = False) -> Path:
    """Train one stage and save its component; returns the component's folder.

    An autoencoder or a text encoder of `Run.hub` is copied instead of trained: both stay frozen (Eq. 1).

    Raises:
        ValueError: unknown stage, variant NONE for the guidance stage, a further round of another variant than D;
            `resume` with a checkpoint of another run, or of other inputs.
        FileNotFoundError: an earlier stage has not run.
    """
    builders = {"autoencoder": _autoencoder, "decoder": _decoder, "text": _text, "denoiser": _denoiser}
    if stage not in (*STAGES, AFTERWARDS):
        raise ValueError(
            f"Unknown stage {stage!r}: expected one of {', '.join(STAGES)}, then {AFTERWARDS}; "
            "or stylegan2, the baseline."
        )
    if stage == "guidance":
        variant = Variant(variant or run.preset.variant)
        if variant is Variant.NONE:
            raise ValueError("The guidance stage needs a variant: A, B, C or D.")
        if run.start and variant is not Variant.D:
            raise ValueError(f"A further round is for variant D, got {variant}: A to C leave the U-Net as it is.")
    if stage in run.given:
        if run.processes.is_main_process:
            INSTALL[stage](run.given[stage], run.folder)
            record_origin(run.folder, stage, {"given": run.given[stage]})
        run.processes.wait_for_everyone()
        return run.folder / ("text_encoder" if stage == "text" else stage)
    further = stage == "guidance" and run.start
    component = run.folder / (next_round(run.start.name) if further else _component_name(stage, variant))
    name = stage if stage != "guidance" else stage_of(component.name)  # earlier rounds stay as they are
    torch.manual_seed(run.seed)  # initial weights
    with run.processes.main_process_first():  # the others find the cached latents
        work = _guidance(run, variant) if stage == "guidance" else builders[stage](run)
    tags = {"preset": run.preset.name, "cohort": cohort_key(run.cohort)}
    work = replace(work, name=name, tags=tags, inputs=run.inputs(stage))
    model = fit(
        work,
        run.folder / "runs" / name,
        seed=run.seed,
        resume=resume,
        device=run.device,
        mixed_precision=mixed_precision(_precision(run, stage)),
    )
    if run.processes.is_main_process:
        _save(run, stage, component, model)
        foreign = further and run.start.resolve().parent != run.folder.resolve()
        start = run.start if foreign else run.hub.unet if stage == "denoiser" else None
        record_origin(run.folder, name, run.origin | ({"start": str(start)} if start else {}))
    run.processes.wait_for_everyone()
    return component


def _autoencoder(run: Run) -> Stage:
    settings = run.settings("autoencoder")
    batches = SliceBatches(run.cohort, run.cohort.rows("train"), settings.crop, run.preset.autoencoder.unshuffle)
    return _picture_stage(
        run, "autoencoder", build_autoencoder(run.preset.autoencoder), AutoencoderObjective(), batches
    )


def _decoder(run: Run) -> Stage:
    if run.processes.num_processes > 1:
        raise ValueError("The decoder trains in one process: start it without `accelerate launch`.")
    rate, folder = run.settings("decoder").learning_rate, run.component("autoencoder")
    model = AutoencoderKL.from_pretrained(folder)
    objective = AdversarialObjective(load_residual(folder), rate)
    objective.discriminator.to(run.device, memory_format=torch.channels_last)
    whole = SliceBatches(run.cohort, run.cohort.rows("train"))
    groups = [{"params": decoder_parameters(model), "lr": rate}]
    return replace(_picture_stage(run, "decoder", model, objective, whole), groups=groups)


def _picture_stage(run: Run, name: str, model: AutoencoderKL, objective: Objective, batches: SliceBatches) -> Stage:
    rows = validation_rows(run.cohort, 24)
    modality = np.arange(len(rows)) % len(Modality)
    images = torch.from_numpy(run.cohort.images[rows, modality])[:, None].float() / 255
    validation = AutoencoderValidation(images, run.precision)
    return Stage(name, model, objective, batches, run.settings(name), validate=validation, sheet=validation.sheet)


def _precision(run: Run, stage: str) -> torch.dtype:
    """A discriminator without a scaler of its own loses gradients in float16: float32 where bfloat16 is missing."""
    return torch.float32 if stage == "decoder" and run.precision == torch.float16 else run.precision


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


def _denoiser(run: Run) -> Stage:
    objective = DiffusionObjective(build_scheduler(), tumour_weight=run.preset.tumour_weight)
    width = CLIPTextConfig.from_pretrained(run.component("text_encoder")).hidden_size
    unet = load_unet(run.hub.unet, width) if run.hub.unet else build_denoiser(run.preset.denoiser, width)
    return _diffusion_stage(run, "denoiser", unet, objective, latent_batches(run, with_structure=False))


def _guidance(run: Run, variant: Variant) -> Stage:
    unet = _started(run.start) if run.start else UNet2DConditionModel.from_pretrained(run.component("unet"))
    batches = latent_batches(run, with_structure=True)
    if variant is Variant.D:  # the whole U-Net goes on training, with the structure among its inputs
        wide = unet if run.start else widen_input(unet, STRUCTURE_CHANNELS)
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


def _started(folder: Path) -> UNet2DConditionModel:
    """A finished U-Net of variant D.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a U-Net that takes no structure.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"No U-Net in {folder}: give the folder unet-D of a run whose guidance stage is done.")
    unet = UNet2DConditionModel.from_pretrained(folder)
    if unet.config.in_channels != (wanted := unet.config.out_channels + STRUCTURE_CHANNELS):
        raise ValueError(
            f"The U-Net of {folder} has {unet.config.in_channels} input channels, expected {wanted} (latents and "
            "structure): give the folder unet-D of a run, not unet."
        )
    return unet


def _diffusion_stage(
    run: Run, name: str, model: nn.Module, objective: DiffusionObjective, batches: LatentBatches
) -> Stage:
    if run.device == "cpu":  # a tenth faster there than torch's fused attention, whose backward pass is slow
        model.set_attn_processor(AttnProcessor())
    text_width = batches.prompts.embeddings.shape[-1]
    if (width := model.config.cross_attention_dim) != text_width:
        raise ValueError(
            f"The U-Net reads text states of width {width}, the text encoder of {run.folder} gives {text_width}: start "
            "from a U-Net that was trained with this text encoder, or train the denoiser anew."
        )
    validation = DiffusionValidation(objective, batches, validation_rows(run.cohort, 64), run.precision)
    return Stage(name, model, objective, batches, run.settings(name), validate=validation)


def _component_name(stage: str, variant: Variant | None) -> str:
    names = {"autoencoder": "autoencoder", "decoder": "decoder", "text": "clip", "denoiser": "unet"}
    return names.get(stage) or ("unet-D" if variant is Variant.D else f"guidance-{variant}")


def _save(run: Run, stage: str, component: Path, model: nn.Module) -> None:
    if draws := stage in ("autoencoder", AFTERWARDS):
        slices = training_slices(run.cohort)
        mirrored = store_latent_statistics(model, slices) if stage == "autoencoder" else []
        residual = lacking_grain(model, slices)  # a crisper decoder lacks less
    model.to("cpu", memory_format=torch.contiguous_format)
    with replace_folder(component) as temporary:
        model.save_pretrained(temporary)
        if draws:
            save_residual(residual, temporary)
        if stage == "autoencoder":
            save_mirrored(mirrored, temporary)
    if stage == "text":  # the generator needs the text half alone; scoring (CLIP score) needs both
        with replace_folder(run.folder / "text_encoder") as temporary:
            model.text_model.save_pretrained(temporary)
