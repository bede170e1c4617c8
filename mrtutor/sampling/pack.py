"""From a training run to a pipeline folder, ready to ship."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from mrtutor.files import write_checksums, write_json, write_text
from mrtutor.models.denoiser import build_scheduler
from mrtutor.models.guidance import Variant
from mrtutor.models.mirror import load_mirrored
from mrtutor.models.residual import load_residual
from mrtutor.models.text import load_text_encoder
from mrtutor.presets import load_preset
from mrtutor.sampling.beside import plain_unet, save_beside
from mrtutor.sampling.card import BASELINE, model_card
from mrtutor.sampling.origin import PACKED, read_origins
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import load_pretrained, save_pipeline
from mrtutor.sampling.rounds import FIRST, finished_rounds, stage_of


@dataclass(frozen=True)
class Packed:
    """What was packed: its size, the folder of its U-Net, and whether its card has figures."""

    size_bytes: int
    unet: Path
    measured: bool


def pipeline_of_run(run: Path, preset: str, variant: Variant | str | None = None) -> MRPipeline:
    """Pipeline from the components of a training run.

    Raises:
        FileNotFoundError: a stage has not been trained yet.
        ValueError: a decoder of another autoencoder.
    """
    recipe = load_preset(preset)
    variant = Variant(variant or recipe.variant)
    unet, pictures = unet_of_run(run, variant), run / autoencoder_of_run(run)
    needed = [pictures.name, "text_encoder", "tokenizer", unet.name]
    needed += [f"guidance-{variant}"] if variant.has_network else []
    missing = [name for name in needed if not (run / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{run} lacks {', '.join(missing)}: run `mrtutor train all --preset {preset} --out {run}` first."
        )
    text_encoder, tokenizer = load_text_encoder(run)
    sampler, residual = recipe.sampler, load_residual(pictures)
    return MRPipeline(
        autoencoder=AutoencoderKL.from_pretrained(pictures),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(unet),
        guidance=ControlNetModel.from_pretrained(run / f"guidance-{variant}") if variant.has_network else None,
        scheduler=build_scheduler(),
        variant=str(variant),
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        guidance_interval=sampler.guidance_interval,
        guide_structure=sampler.guide_structure,
        eta=sampler.eta,
        grain_std=residual.std,
        grain_width=residual.width,
        mirrored=load_mirrored(run / "autoencoder"),
    )


def autoencoder_of_run(run: Path) -> str:
    """Folder of the autoencoder that a run draws with: `decoder`, if that stage has followed.

    Raises:
        ValueError: that decoder belongs to another autoencoder.
    """
    if not (run / "decoder").is_dir() or not (run / "autoencoder").is_dir():
        return "autoencoder"
    first, crisp = (
        AutoencoderKL.from_pretrained(run / name).encoder.state_dict() for name in ("autoencoder", "decoder")
    )
    if first.keys() != crisp.keys() or not all(torch.equal(crisp[key], value) for key, value in first.items()):
        raise ValueError(
            f"{run / 'decoder'} was trained behind another encoder than that of {run / 'autoencoder'}: run "
            "`mrtutor train decoder` again, or remove the folder."
        )
    return "decoder"


def unet_of_run(run: Path, variant: Variant) -> Path:
    """Folder of the U-Net that a variant draws with: of D's last round."""
    if variant is not Variant.D:
        return run / "unet"
    return run / [FIRST, *finished_rounds(run)][-1]


def pack_run(
    run: Path,
    out: Path,
    *,
    preset: str,
    variant: str | None = None,
    device: str | None = None,
    results: Path | None = None,
    key: Callable[[MRPipeline], str] | None = None,
) -> Packed:
    """Write the run's pipeline to `out` with model card and checksums.

    Args:
        device: what trained it, for the card; default what the run says.
        results: figures of `mrtutor evaluate --quick`, if there are any.
        key: how `results` name weights (`mrtutor.metrics.draws.weights_key`): figures of others stay out of the card.

    Raises:
        FileNotFoundError: a stage has not been trained yet.
    """
    pipeline = pipeline_of_run(run, preset, variant)
    save_pipeline(pipeline, out)
    variant, unet = pipeline.variant, unet_of_run(run, pipeline.variant)
    stages = ["autoencoder", *(["decoder"] if (run / "decoder").is_dir() else []), "text", "denoiser"]
    stages += [] if variant is Variant.NONE else [f"guidance-{variant}"]
    stages += [stage_of(folder) for folder in finished_rounds(run)] if variant is Variant.D else []
    figures = _figures(results, out, key)
    origins = read_origins(run, stages)
    card = model_card(
        preset=preset, variant=str(variant), origins=origins, runs=run / "runs", device=device, results=figures
    )
    write_text(out / "README.md", card)
    write_json(out / PACKED, origins)
    write_checksums(out)
    return Packed(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()), unet, figures is not None)


def pack_guidance(
    run: Path,
    base: Path,
    out: Path,
    *,
    variant: str | None,
    device: str | None = None,
    results: Path | None = None,
    key: Callable[[MRPipeline], str] | None = None,
) -> Packed:
    """Write a run's guidance network alone to `out`, beside the pipeline `base` that its U-Net came from.

    Args:
        device, results, key: as `pack_run`.

    Raises:
        FileNotFoundError: no such pipeline, or the guidance network has not been trained yet.
        ValueError: a variant without a network; a U-Net that is not the pipeline's; see `save_beside`.
    """
    variant = Variant(variant or Variant.A)
    if not variant.has_network:
        raise ValueError(f"Variant {variant} has no guidance network to stand beside a pipeline: choose A, B or C.")
    pipe, folder = load_pretrained(base, device="cpu"), run / f"guidance-{variant}"
    if missing := [place for place in (run / "unet", folder) if not place.is_dir()]:
        raise FileNotFoundError(
            f"No {missing[0]}: `mrtutor unpack {base} --plain --out {run}`, then `mrtutor train guidance --variant "
            f"{variant} --out {run}`."
        )
    mine, theirs = UNet2DConditionModel.from_pretrained(run / "unet").state_dict(), plain_unet(pipe).state_dict()
    if mine.keys() != theirs.keys() or not all(torch.equal(mine[k].half(), theirs[k].half()) for k in mine):
        raise ValueError(
            f"{folder} was trained with another U-Net than that of {base}: start with `mrtutor unpack {base} --plain`, "
            "or pack a whole pipeline, without --beside."
        )
    guidance, stage = ControlNetModel.from_pretrained(folder), f"guidance-{variant}"
    packed = json.loads(path.read_text()) if (path := base / PACKED).is_file() else {}
    origins = packed | read_origins(run, [stage])
    about = {"preset": f"{base.name}-{variant}", "variant": str(variant), "origins": origins, "runs": run / "runs"}
    card = model_card(**about, device=device, unmeasured=BASELINE)
    save_beside(guidance, variant, base, out, card, origins)
    if figures := _figures(results, out, key):
        save_beside(guidance, variant, base, out, model_card(**about, device=device, results=figures), origins)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    return Packed(size, run / "unet", figures is not None)


def _figures(results: Path | None, packed: Path, key: Callable[[MRPipeline], str] | None) -> dict | None:
    """Figures for the card, unless they are of other weights; compared as they were measured, in float16."""
    figures = json.loads(results.read_text()) if results and results.is_file() else None
    if figures and key and figures["of"]["weights"] == key(load_pretrained(packed, device="cpu")):
        return figures
    return None
