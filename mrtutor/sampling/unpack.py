"""From a pipeline folder back to the folder of a run, to train on from finished weights, perhaps on other patients."""

import json
from pathlib import Path

import torch

from mrtutor.models.guidance import Variant
from mrtutor.models.mirror import save_mirrored
from mrtutor.models.residual import save_residual
from mrtutor.sampling.beside import plain_unet
from mrtutor.sampling.origin import PACKED, record_origin
from mrtutor.sampling.pretrained import load_pretrained, pipeline_folder
from mrtutor.sampling.rounds import FIRST
from mrtutor.vocabulary import Modality


def unpack_pipeline(pipeline: str | Path, run: Path, *, plain: bool = False) -> Path:
    """Write the components of a pipeline as those of a run, float32.

    With them `train` can follow with any later stage: of variant D a further round (`--start`), a crisper decoder, of
    the others another guidance network. Logs of the training are not in a pipeline.

    Args:
        pipeline: a name below `data/pretrained`, or a folder.
        run: a new or empty folder.
        plain: leave the structure behind: the U-Net as plain LDM, with which variants A to C can be trained.

    Returns:
        Folder of the U-Net: of variant D where a further round starts from.

    Raises:
        FileNotFoundError, ValueError: as `load_pretrained`.
        FileExistsError: there is something in `run` already.
    """
    folder = pipeline_folder(pipeline)
    pipe = load_pretrained(folder, device="cpu")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise FileExistsError(f"{run} is not empty: its weights would be lost. Name a new folder with --out.")
    unet = FIRST if pipe.variant is Variant.D and not plain else "unet"
    parts = {"autoencoder": pipe.autoencoder, "text_encoder": pipe.text_encoder}
    parts |= {unet: plain_unet(pipe) if plain else pipe.unet}
    parts |= {f"guidance-{pipe.variant}": pipe.guidance} if pipe.guidance is not None and not plain else {}
    for name, part in parts.items():
        part.to(memory_format=torch.contiguous_format).save_pretrained(run / name)
    pipe.tokenizer.save_pretrained(run / "tokenizer")
    save_residual(pipe.residual, run / "autoencoder")
    save_mirrored([Modality(m) for m in pipe.config.mirrored], run / "autoencoder")
    known = json.loads(path.read_text()) if (path := folder / PACKED).is_file() else {}
    stages = ["autoencoder", "text", "denoiser"] + [f"guidance-{pipe.variant}"] * (pipe.variant is not Variant.NONE)
    for stage in dict.fromkeys([*stages, *known]):
        record_origin(run, stage, known.get(stage, {}) | {"given": str(pipeline)})
    return run / unet
