"""From a training run to a pipeline folder, ready to ship."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from mrtutor.files import write_checksums, write_text
from mrtutor.models.denoiser import build_scheduler
from mrtutor.models.guidance import Variant
from mrtutor.models.text import load_text_encoder
from mrtutor.presets import load_preset
from mrtutor.sampling.card import model_card
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import save_pipeline


def pipeline_of_run(run: Path, preset: str, variant: Variant | str | None = None) -> MRPipeline:
    """Pipeline from the components of a training run.

    Raises:
        FileNotFoundError: a stage has not been trained yet.
    """
    recipe = load_preset(preset)
    variant = Variant(variant or recipe.variant)
    unet_name = "unet-D" if variant is Variant.D else "unet"
    needed = ["autoencoder", "text_encoder", "tokenizer", unet_name]
    needed += [f"guidance-{variant}"] if variant.has_network else []
    missing = [name for name in needed if not (run / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{run} lacks {', '.join(missing)}: run `mrtutor train all --preset {preset} --out {run}` first."
        )
    text_encoder, tokenizer = load_text_encoder(run)
    sampler = recipe.sampler
    return MRPipeline(
        autoencoder=AutoencoderKL.from_pretrained(run / "autoencoder"),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(run / unet_name),
        guidance=ControlNetModel.from_pretrained(run / f"guidance-{variant}") if variant.has_network else None,
        scheduler=build_scheduler(),
        variant=str(variant),
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        guidance_interval=sampler.guidance_interval,
        eta=sampler.eta,
    )


def pack_run(
    run: Path, out: Path, *, preset: str, variant: str | None = None, device: str, results: Path | None = None
) -> int:
    """Write the run's pipeline to `out` with model card and checksums; returns its size in bytes.

    Args:
        device: what trained it, for the card.
        results: figures of `mrtutor evaluate --quick`, if there are any.

    Raises:
        FileNotFoundError: a stage has not been trained yet.
    """
    pipeline = pipeline_of_run(run, preset, variant)
    save_pipeline(pipeline, out)
    figures = json.loads(results.read_text()) if results and results.is_file() else None
    card = model_card(
        preset=preset,
        variant=pipeline.config.variant,
        data="simulated cohort of 484 patients, seed 0 (`mrtutor simulate`), training split",
        device=device,
        runs=run / "runs",
        results=figures,
    )
    write_text(out / "README.md", card)
    write_checksums(out)
    return sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
