"""A guidance network (variants A to C) alone, in the folder beside the pipeline that it was trained with.

It shares that pipeline's U-Net, as plain LDM, its text encoder, autoencoder and sampler: a quarter of the size of a
second pipeline, and a comparison of doors in which little else differs.
"""

import json
from pathlib import Path

from diffusers import ControlNetModel
from torch import nn

from mrtutor.files import replace_folder, sha256, write_checksums, write_json, write_text
from mrtutor.models.denoiser import narrow_input
from mrtutor.models.guidance import Variant
from mrtutor.sampling.origin import PACKED
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.precision import halved

BESIDE = "beside.json"  # where a pipeline has its model_index.json


def base_of(folder: Path) -> Path:
    """Folder of the pipeline beside which a guidance network stands."""
    return folder.with_name(json.loads((folder / BESIDE).read_text())["pipeline"])


def join_guidance(folder: Path, pipe: MRPipeline) -> MRPipeline:
    """Pipeline of the guidance network in `folder` and of `pipe`, from `base_of(folder)`.

    Raises:
        ValueError: the network was trained with another U-Net.
    """
    about = json.loads((folder / BESIDE).read_text())
    base = base_of(folder)
    if about["unet"] != _unet_sums(base):
        raise ValueError(
            f"The guidance network of {folder} was trained with another U-Net than the one in {base}: take both from "
            f"one commit, or train it again (mrtutor unpack {base} --plain, train guidance, pack --beside {base})."
        )
    guidance = ControlNetModel.from_pretrained(folder / "guidance", use_safetensors=True)
    return with_guidance(pipe, guidance, Variant(about["variant"]))


def with_guidance(pipe: MRPipeline, guidance: ControlNetModel, variant: Variant) -> MRPipeline:
    """The pipeline with another guidance network: everything else, the settings of its sampler too, stays as it is."""
    parts = pipe.components | {"unet": plain_unet(pipe), "guidance": guidance}
    return MRPipeline(**parts, **(pipe.parameters | {"variant": str(variant)}))


def plain_unet(pipe: MRPipeline) -> nn.Module:
    """A pipeline's U-Net as plain LDM; that of variant D without its structure channels."""
    return narrow_input(pipe.unet) if pipe.variant is Variant.D else pipe.unet


def save_beside(guidance: nn.Module, variant: Variant, base: Path, folder: Path, card: str, origin: dict) -> Path:
    """Write a guidance network alone, float16, beside the pipeline that it was trained with.

    Args:
        base: that pipeline's folder.
        folder: made new, with the same parent.
        card: text of README.md.
        origin: for origin.json, see `mrtutor.sampling.origin`.

    Raises:
        ValueError: folders of different parents; `folder` holds something else; a weight does not fit float16.
    """
    if folder.resolve().parent != base.resolve().parent:
        raise ValueError(
            f"Expected {folder} beside {base}: a guidance network alone finds the rest in the next folder."
        )
    if folder.exists() and not (folder / BESIDE).is_file():
        raise ValueError(f"{folder} exists and is no guidance network alone (no {BESIDE}): choose another name.")
    half = halved("guidance", guidance)
    with replace_folder(folder) as temporary:
        half.save_pretrained(temporary / "guidance", safe_serialization=True)
        write_json(temporary / BESIDE, {"pipeline": base.name, "variant": str(variant), "unet": _unet_sums(base)})
        write_json(temporary / PACKED, origin)
        write_text(temporary / "README.md", card)
        write_checksums(temporary)
    return folder


def _unet_sums(pipeline: Path) -> dict[str, str]:
    """SHA-256 of each file of a pipeline's U-Net."""
    return {path.name: sha256(path) for path in sorted((pipeline / "unet").glob("*.safetensors"))}
