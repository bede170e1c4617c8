"""The stages of a run: autoencoder, a crisper decoder, text, denoiser, guidance; and a student of few steps.

A run's folder is a pipeline's folder, with one component of each stage; `load_pretrained` opens it as soon as there is
a denoiser. `training/<stage>/` keeps what `fit` writes and, for stages that go on from finished weights, those in
start/. `training.json` says what trained each component.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor, nn
from transformers import CLIPModel

from mrtutor import plot
from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import canny
from mrtutor.files import data_root, replace_folder, sha256, write_json
from mrtutor.models.autoencoder import build_autoencoder, decode, encode, set_latent_statistics
from mrtutor.models.guidance import Guidance, guidance_of
from mrtutor.models.hub import load_text_encoder, load_unet, load_vae
from mrtutor.models.precision import autocast, autocast_dtype, best_device, mixed_precision
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.models.unet import build_denoiser, build_scheduler
from mrtutor.pipeline.draw import weights_key
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.pipeline.weights import INDEX, TRAINING, load_pretrained, pipeline_folder, training_of
from mrtutor.presets import Preset, SamplerConfig, StagePreset, load_preset
from mrtutor.training import objectives
from mrtutor.training.data import LatentBatches, SliceBatches, TrainingSlices, cache_latents, latent_key
from mrtutor.training.distillation import ConsistencyObjective, build_student_scheduler
from mrtutor.training.loop import COST, Stage, fit
from mrtutor.vocabulary import Modality

ALL = ("autoencoder", "text", "denoiser", "guidance")  # in this order; a crisper decoder may follow at any time
LEAVES = {"autoencoder": "autoencoder", "decoder": "autoencoder", "text": "text_encoder"}
STARTS = {"decoder": ("autoencoder",), "guidance": ("unet", "guidance", INDEX)}  # what these stages go on from
STUDENT_STEPS = 4  # calls of the U-Net for which a student is shipped
FOLLOWER = {"autoencoder": "decoder", "denoiser": "guidance"}


@dataclass(frozen=True)
class Run:
    """One training run of a preset on one or several cohorts, of which training and validation patients are read."""

    preset: Preset
    cohorts: Sequence[Cohort]
    folder: Path  # holds everything that the run makes
    seed: int = 0  # of weights, batches and noise
    device: str = "cpu"
    steps: int | None = None  # instead of the preset's
    start: str | Path | None = None  # pipeline (folder or name): a new run begins as a copy of it
    variant: str | None = None  # guidance variant instead of the preset's
    text_encoder: str | None = None  # this and the next two: folder or hub id; a CLIP, frozen, instead of MR-CLIP
    vae: str | None = None  # an autoencoder, frozen
    unet: str | None = None  # first weights of the denoiser

    @property
    def method(self) -> Guidance:
        """The guidance variant: as asked for, else that of the start, else the preset's."""
        held = MRPipeline.load_config(pipeline_folder(self.start))["variant"] if self.start else "none"
        return guidance_of(self.variant or (held if held != "none" else self.preset.variant))

    @property
    def reading(self) -> dict[str, bool]:
        """How the text encoder is read: as it was in the start it came from, or as the preset says."""
        told = training_of(self.folder).get("text", {})
        if "start" in told and not (self.work("text") / COST).is_file():
            config = MRPipeline.load_config(pipeline_folder(told["start"]))
            return {name: config.get(name, False) for name in ("mask_padding", "findings")}
        return {"mask_padding": self.preset.mask_padding, "findings": True}

    @cached_property
    def slices(self) -> TrainingSlices:
        """Training slices."""
        return TrainingSlices(self.cohorts, "train")

    @cached_property
    def unseen(self) -> TrainingSlices:
        """Validation slices (the training slices if a tiny cohort has none)."""
        some = any(len(cohort.rows("validation")) for cohort in self.cohorts)
        return TrainingSlices(self.cohorts, "validation") if some else self.slices

    @property
    def given(self) -> dict[str, str]:
        """Stages that need no training, and where their component comes from."""
        sources = {"autoencoder": self.vae, "text": self.text_encoder or self.preset.hub_text}
        return {stage: source for stage, source in sources.items() if source}

    def settings(self, stage: str) -> StagePreset:
        """The stage's recipe, with the number of steps overridden if asked."""
        settings = self.preset.stages[stage]
        return replace(settings, steps=self.steps) if self.steps else settings

    def work(self, stage: str) -> Path:
        """Folder of a stage's checkpoint, log and sheets."""
        return self.folder / "training" / stage

    def component(self, name: str) -> Path:
        """Folder of a finished component; FileNotFoundError if its stage has not run yet."""
        if not (self.folder / name).is_dir():
            advice = f"train the stages in the order {', '.join(ALL)}, or go on from a pipeline (--start laptop)"
            raise FileNotFoundError(f"{self.folder / name} is missing: {advice}.")
        return self.folder / name


def train(run: Run, stage: str, resume: bool = False) -> Path:
    """Train one stage and save its component, whose folder is returned; parts from elsewhere are copied instead.

    ValueError: unknown stage, a variant that does not fit, `resume` with a checkpoint of another run.
    FileNotFoundError: an earlier stage has not run.
    """
    builders = {"autoencoder": _pictures, "decoder": _pictures, "text": _text}
    builders |= {"denoiser": _diffusion, "guidance": _diffusion, "student": _student}
    if stage not in builders:
        raise ValueError(f"Unknown stage {stage!r}: expected one of {', '.join(builders)}.")
    torch.manual_seed(run.seed)  # initial weights
    processes = PartialState(cpu=run.device == "cpu")
    with processes.main_process_first():  # the others find what it copies, and the cached latents
        if processes.is_main_process:
            _bring(run, stage)
        work, save = (None, None) if stage in run.given else builders[stage](run, stage)
    if work:
        dtype = autocast_dtype(run.device)
        if stage == "decoder" and dtype == torch.float16:  # the discriminator has no scaler to keep small gradients
            dtype = torch.float32
        options = {"seed": run.seed, "device": run.device, "mixed_precision": mixed_precision(dtype)}
        fit(work, run.work(stage), resume=resume, **options)
        if processes.is_main_process:
            _save(run, stage, save)
    processes.wait_for_everyone()
    return run.component("guidance" if stage == "guidance" and run.method.has_network else LEAVES.get(stage, "unet"))


def _bring(run: Run, stage: str) -> None:
    """What is not trained: the run's start, what this stage goes on from, parts of the hub."""
    if run.start and not (run.folder / TRAINING).is_file():
        start = pipeline_folder(run.start)
        _copy(start, run.folder, [path.name for path in start.iterdir() if path.is_dir() and path.name != "training"])
        _copy(start, run.folder, [INDEX])
        told = {stage: about | {"start": str(run.start)} for stage, about in training_of(start).items()}
        write_json(run.folder / TRAINING, told)
    kept = run.work(stage) / "start"  # it is replaced later, and a resumed stage needs it again
    if stage in STARTS and not kept.is_dir():
        run.component(STARTS[stage][0])
        with replace_folder(kept) as temporary:
            _copy(run.folder, temporary, STARTS[stage])
    if stage in run.given:
        source = run.given[stage]
        if stage == "autoencoder":
            _save_parts(run, autoencoder=load_vae(source))
        else:
            encoder, tokenizer = load_text_encoder(source)
            _save_parts(run, text_encoder=encoder, tokenizer=tokenizer)
        _record(run, stage, {"given": source})


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_dir():
            with replace_folder(target / name) as temporary:
                shutil.copytree(source / name, temporary, dirs_exist_ok=True)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _inputs(run: Run, **folders: Path) -> dict[str, str]:
    """What a stage reads, by name: of folders of weights twelve hex digits that change with them."""
    inputs = {"preset": run.preset.name, "cohorts": run.slices.key(), "start": str(run.start)}
    for name, folder in folders.items():
        sums = "".join(sha256(path) for path in sorted(folder.rglob("*.safetensors")))
        inputs[name] = hashlib.sha256(sums.encode()).hexdigest()[:12]
    return inputs


def _pictures(run: Run, name: str) -> tuple[Stage, Callable[[], None]]:
    """The autoencoder, or the decoder of a finished one; and what saves it."""
    settings, inputs, start = run.settings(name), _inputs(run), run.start and pipeline_folder(run.start)
    objective = objectives.AutoencoderObjective()
    if name == "decoder":
        if PartialState().num_processes > 1:
            raise ValueError("The decoder trains in one process: start it without `accelerate launch`.")
        start, objective = run.work(name) / "start", objectives.AdversarialObjective(settings.learning_rate)
        objective.discriminator.to(run.device, memory_format=torch.channels_last)
        inputs = _inputs(run, autoencoder=start)
    model = build_autoencoder(run.preset.autoencoder)
    if start:
        model = AutoencoderKL.from_pretrained(start / "autoencoder", torch_dtype=torch.float32)
    if name == "decoder":
        for part_name, part in model.named_children():
            part.requires_grad_(part_name in ("decoder", "post_quant_conv"))
    else:
        channels = model.config.latent_channels  # the identity serves until the statistics are known
        model.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    true = SliceBatches(run.unseen).at(run.unseen.spread(24))["image"] / 2 + 0.5

    def sheet(model: AutoencoderKL, path: Path) -> None:
        made = reconstruct(model, true[:8])
        plot.sheet({"slice": list(true[:8, 0]), "decoded": list(made[:, 0])}, [""] * len(made), path=path)

    def save() -> None:
        if name == "autoencoder":  # mean and spread of each raw latent channel, over slices drawn as in training
            batches, generator = SliceBatches(run.slices), Generator().manual_seed(run.seed)
            with torch.inference_mode():
                raw = [encode(model, batches(8, generator)["image"].to(model.device)).cpu() for _ in range(32)]
            set_latent_statistics(model, torch.cat(raw))
        _save_parts(run, autoencoder=model)

    batches, shown = SliceBatches(run.slices, settings.crop), {"validate": partial(reconstruction_figures, images=true)}
    return Stage(name, model, objective, batches, settings, inputs=inputs, sheet=sheet, **shown), save


def _text(run: Run, name: str) -> tuple[Stage, Callable[[], None]]:
    tokenizer = build_tokenizer(run.preset.text.max_length)
    model = build_clip(run.preset.text, tokenizer)
    if run.start and (pipeline_folder(run.start) / "clip").is_dir():
        model = CLIPModel.from_pretrained(pipeline_folder(run.start) / "clip", dtype=torch.float32)
    if PartialState().is_main_process:
        _save_parts(run, tokenizer=tokenizer)
    objective, batches = objectives.ContrastiveObjective(tokenizer), SliceBatches(run.slices)
    validate = partial(objectives.paraphrase_accuracy, tokenizer=tokenizer)
    stage = Stage(name, model, objective, batches, run.settings(name), validate=validate, inputs=_inputs(run))
    # the generator needs the text half alone; scoring (CLIP score) needs both
    return stage, lambda: _save_parts(run, clip=model, text_encoder=model.text_model)


def _networks(run: Run, name: str, width: int, channels: int) -> tuple[UNet2DConditionModel, ControlNetModel | None]:
    """U-Net and guidance network as a stage takes them up, for texts of `width` and latents of some channels."""
    if name == "denoiser":
        source = run.unet or (run.start and pipeline_folder(run.start))
        sizes = replace(run.preset.denoiser, latent_channels=channels)
        return load_unet(source, width, channels) if source else build_denoiser(sizes, width), None
    start, method = run.work(name) / "start", run.method
    if not method.takes_structure:
        raise ValueError("The guidance stage needs a variant with an edge map: give a --variant other than none.")
    held = MRPipeline.load_config(start)["variant"] if (start / INDEX).is_file() else "none"
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    if held == "paper" != method.name:
        raise ValueError(f"Variant {method.name} needs a plain U-Net, and {start} holds one trained as the paper does.")
    if held != method.name:
        return method.build(guidance_of(held).plain(unet))
    network = ControlNetModel.from_pretrained(start / "guidance").float() if method.has_network else None
    return unet, network  # for a further round


def _diffusion(run: Run, name: str) -> tuple[Stage, Callable[[], None]]:
    """Denoiser or guidance, on the frozen parts that earlier stages have made."""
    preset, settings, dtype = run.preset, run.settings(name), autocast_dtype(run.device)
    autoencoder = AutoencoderKL.from_pretrained(run.component("autoencoder"), torch_dtype=torch.float32)
    autoencoder.requires_grad_(False).eval()
    encoder, tokenizer = load_text_encoder(run.component("text_encoder").parent)
    folder = run.folder / "scheduler"
    scheduler = DDIMScheduler.from_pretrained(folder) if folder.is_dir() else build_scheduler()
    unet, network = _networks(run, name, encoder.config.hidden_size, autoencoder.config.latent_channels)
    variant, parts = run.method.name if name == "guidance" else "none", (autoencoder, encoder, tokenizer, unet, network)
    pipe = MRPipeline(*parts, scheduler, variant, preset.sampler, **run.reading)
    pipe.to(run.device)
    pipe.set_progress_bar_config(disable=True)
    method, model = pipe.method, nn.ModuleDict({"unet": unet} | ({"guidance": network} if network else {}))
    if run.device == "cpu":  # a tenth faster there than torch's fused attention, whose backward pass is slow
        for part in model.values():
            part.set_attn_processor(AttnProcessor())
    empty = 0.0 if method.has_network else preset.drop_structure
    objective = objectives.DiffusionObjective(scheduler, method, autoencoder, empty, preset.tumour_weight)
    batches = _batches(run, pipe, dtype, drop_prompt=preset.drop_prompt)
    read = {"text_encoder": run.folder / "text_encoder", "start": run.work(name) / "start"}

    def save() -> None:
        _save_parts(run, unet=unet, guidance=network, scheduler=scheduler)
        pipe.save_config(run.folder)  # now it is a pipeline's folder

    stage = Stage(
        name,
        model,
        objective,
        batches["error_seen"],
        settings,
        groups=method.trainable_groups(unet, network, settings.learning_rate),
        validate=lambda model: {key: diffusion_error(objective, model, b, dtype) for key, b in batches.items()},
        sheet=lambda _model, path: sample_sheet(pipe, run.unseen, path),  # the pipeline's own networks are trained
        inputs=_inputs(run, **read) | {"latents": latent_key(autoencoder)},
    )
    return stage, save


def _batches(run: Run, pipe: MRPipeline, dtype: torch.dtype, drop_prompt: float) -> dict[str, LatentBatches]:
    """Batches of unseen slices for the figure "error", and of training slices for "error_seen"."""
    options = {"drop_prompt": drop_prompt, "findings": pipe.config.findings}
    options["with_structure"], batches = pipe.method.takes_structure, {}
    for error, slices in {"error": run.unseen, "error_seen": run.slices}.items():  # their difference is memorised
        latents = cache_latents(slices, pipe.autoencoder, run.folder / "training", dtype)
        batches[error] = LatentBatches(slices, latents, pipe.encode, **options)
    return batches


def _student(run: Run, name: str) -> tuple[Stage, Callable[[], None]]:
    """A U-Net of variant D that learns in few steps what the run's start draws in many."""
    if not run.start:
        raise ValueError("A student needs a teacher: give its weights, as in --start laptop.")
    settings, dtype = run.settings(name), autocast_dtype(run.device)
    teacher = load_pretrained(run.start, device=run.device)
    for part in filter(None, (teacher.autoencoder, teacher.unet, teacher.guidance)):
        part.requires_grad_(False).eval()
    method, scheduler = guidance_of("D"), build_student_scheduler(teacher)
    unet = copy.deepcopy(teacher.unet)
    unet = unet if teacher.variant == method.name else method.build(teacher.method.plain(unet))[0]
    parts = {**teacher.components, "unet": unet, "guidance": None, "scheduler": scheduler}
    settings_of = {"mask_padding": teacher.config.mask_padding, "findings": teacher.config.findings}
    sampler = SamplerConfig(steps=STUDENT_STEPS, guidance_scale=1.0)
    pipe = MRPipeline(**parts, variant=method.name, sampler=sampler, grain=teacher.config.grain, **settings_of)
    pipe.to(run.device)
    pipe.set_progress_bar_config(disable=True)
    objective = ConsistencyObjective(teacher, scheduler, method)
    batches = _batches(run, pipe, dtype, drop_prompt=0.0)

    def leave() -> None:
        _save_parts(run, unet=unet, guidance=None, scheduler=scheduler)
        pipe.save_config(run.folder)

    stage = Stage(
        name,
        nn.ModuleDict({"unet": unet}),
        objective,
        batches["error_seen"],
        settings,
        groups=method.trainable_groups(unet, None, settings.learning_rate),
        validate=lambda model: {key: diffusion_error(objective, model, b, dtype) for key, b in batches.items()},
        sheet=lambda _model, path: sample_sheet(pipe, run.unseen, path),
        inputs=_inputs(run) | {"teacher": weights_key(teacher)},
    )
    return stage, leave


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (B, 1, H, W) in [0, 1] through encoder and decoder, (B, 1, H, W) float32 in [0, 1]."""
    device, decoded = autoencoder.device, []
    for part in images.split(8):
        part = (part.to(device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        with autocast(device, autocast_dtype(device)):
            decoded.append(decode(autoencoder, encode(autoencoder, part)).cpu())
    return (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)


def reconstruction_figures(autoencoder: AutoencoderKL, images: Tensor) -> dict[str, float]:
    """PSNR (dB), SSIM and sharpness (mean gradient inside the brain, over the true one) of slices in [0, 1]."""
    true, made = images[:, 0].numpy(), reconstruct(autoencoder, images)[:, 0].numpy()
    slopes = [np.hypot(*np.gradient(pictures, axis=(1, 2)))[true > 0.02].mean() for pictures in (made, true)]
    figures = {"sharpness": float(slopes[0] / slopes[1])}
    for name, like in {"psnr_db": peak_signal_noise_ratio, "ssim": structural_similarity}.items():
        figures[name] = float(np.mean([like(a, b, data_range=1) for a, b in zip(true, made, strict=True)]))
    return figures


@torch.no_grad()
def diffusion_error(objective: Callable, model: nn.Module, batches: LatentBatches, dtype: torch.dtype) -> float:
    """Unweighted error of Eq. 4 on 64 fixed slices, time steps and noise: comparable between runs."""
    generator, device, total = Generator().manual_seed(0), next(model.parameters()).device, 0.0
    batch = batches.at(batches.slices.spread(64))
    for part in torch.arange(len(batch["latent"])).split(16):
        small = {name: value[part].to(device) for name, value in batch.items()}
        with autocast(device, dtype):
            total += len(part) * objective(model, small, generator)[1]["error"].item()
    return total / len(batch["latent"])


def sample_sheet(pipe: MRPipeline, slices: TrainingSlices, path: Path, count: int = 2) -> None:
    """Sequences that `pipe` draws for unseen slices, each under the true one."""
    rows = {}
    for number, index in enumerate(slices.spread(count).index.tolist(), 1):
        (cohort, row), (images, _) = slices.places[index], slices.pictures(index)
        have = np.flatnonzero(slices.available[index])
        edges = canny(images[2 if 2 in have else have[0]])  # T1Gd shows outline and rim
        edges = edges if pipe.method.takes_structure else None
        drawn = pipe.sequence(cohort.idh(row), edges, seed=number, findings=cohort.findings(row))
        rows |= {f"{number}: true": [edges, *images], f"{number}: drawn": [None, *drawn.values()]}
    plot.sheet(rows, ["edges", *Modality], path=path)


def _save(run: Run, stage: str, save: Callable[[], None]) -> None:
    """Leave the component in the run's folder, and what trained it in training.json, for the model card."""
    save()
    if stage in FOLLOWER:  # it goes on from the new weights
        shutil.rmtree(run.work(FOLLOWER[stage]) / "start", ignore_errors=True)
    about = {"cohorts": [], "preset": run.preset.name, "seed": run.seed}
    for cohort in run.cohorts:
        people = cohort.table[cohort.table["split"] == "train"]
        told = {"source": ", ".join(sorted(people["source"].unique())), "key": cohort.key}
        told |= {"patients": int(people["patient"].nunique()), "seed": cohort.manifest.get("seed")}
        about["cohorts"].append(told)
    about |= json.loads((run.work(stage) / COST).read_text())
    gpu = run.device.startswith("cuda")
    about["device"] = torch.cuda.get_device_name() if gpu else f"{run.device}, {about.pop('threads')} thread(s)"
    about |= {"variant": run.method.name} if stage == "guidance" else {}
    start = run.start or (run.unet if stage == "denoiser" else None)
    _record(run, stage, about | ({"start": str(start)} if start else {}))


def _save_parts(run: Run, **parts: object) -> None:
    for name, part in parts.items():
        if part is None:
            shutil.rmtree(run.folder / name, ignore_errors=True)
        else:
            if isinstance(part, nn.Module):
                part.to("cpu", memory_format=torch.contiguous_format)
            with replace_folder(run.folder / name) as temporary:
                part.save_pretrained(temporary)


def _record(run: Run, stage: str, about: dict) -> None:
    write_json(run.folder / TRAINING, training_of(run.folder) | {stage: about})


def train_command(
    stage: str,
    cohorts: Sequence[Path],
    out: Path,
    preset: str = "laptop",
    device: str | None = None,
    resume: bool = False,
    **options: object,
) -> list[Path]:
    """Body of ``mrtutor train``: one stage, or "all" in order; further `options` of `Run`."""
    if out.resolve().is_relative_to((data_root() / "pretrained").resolve()):
        raise ValueError(f"{out} holds shipped weights: choose another folder for --out.")
    opened = [Cohort.open(path) for path in cohorts]
    run = Run(load_preset(preset), opened, out, device=device or str(best_device()), **options)
    return [train(run, name, resume) for name in (ALL if stage == "all" else (stage,))]
