"""Weights on disk: found by name, checked, loaded; and saved so that they can be checked.

A folder of weights has the standard layout of diffusers, float16 safetensors and nothing else that could run code,
and `SHA256SUMS` over every file. A guidance network may also stand alone (`mrtutor.sampling.beside`).
"""

import os
from pathlib import Path

import torch
from torch import nn

from mrtutor.files import CHECKSUMS, replace_folder, verify_checksums, write_checksums, write_text
from mrtutor.models.guidance import Variant
from mrtutor.sampling.beside import BESIDE, base_of, join_guidance
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.precision import best_device, halved

INDEX = MRPipeline.config_name  # model_index.json
SMOKE = "smoke"  # random weights, made in memory
SMOKE_SEED = 0
DATA_VARIABLE = "MRTUTOR_DATA"


def data_root() -> Path:
    """The repository's `data` folder, or what the environment variable `MRTUTOR_DATA` says."""
    chosen = os.environ.get(DATA_VARIABLE)
    return Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "data"


def load_pretrained(
    name_or_folder: str | Path = "laptop",
    variant: Variant | str | None = None,
    device: torch.device | str | None = None,
) -> MRPipeline:
    """Open a pipeline: shipped weights by name, or any folder that `save_pipeline` wrote.

    Args:
        name_or_folder: a name below `data/pretrained`, a folder, or "smoke" for tiny random weights in memory.
        variant: the guidance variant wanted (A-D, none); default what the folder holds. Another variant of shipped
            weights is looked for beside them, as `<name>-<variant>`.
        device: default CUDA where there is some, else the CPU.

    Returns:
        Pipeline in float32; see `mrtutor.sampling.precision` for what it computes in.

    Raises:
        FileNotFoundError: no such name or folder; a file is missing.
        ValueError: a file is truncated, altered or not in the list of checksums; another variant than asked for.
    """
    wanted = None if variant is None else Variant(variant)
    device = device or best_device()
    if str(name_or_folder) == SMOKE:
        return _smoke(wanted).to(device)
    folder = pipeline_folder(name_or_folder, wanted)
    _verify(folder)
    if (folder / BESIDE).is_file():
        pipe = join_guidance(folder, load_pretrained(base_of(folder), device="cpu"))
    else:
        pipe = MRPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.float()
    if wanted not in (None, pipe.variant):
        raise ValueError(
            f"{folder} holds variant {pipe.variant}, not {wanted}: load it with variant=None, or train the other one "
            f"(mrtutor train guidance --variant {wanted}, then mrtutor pack)."
        )
    return pipe.to(device)


def pipeline_folder(name_or_folder: str | Path, variant: Variant | None = None) -> Path:
    """Folder of weights, see `load_pretrained`.

    Raises:
        FileNotFoundError: no such name or folder.
    """
    shipped = data_root() / "pretrained"
    candidates = [shipped / name_or_folder, Path(name_or_folder)]
    if variant is not None:
        candidates = [c.with_name(f"{c.name}-{variant}") for c in candidates if c.name] + candidates
    for candidate in candidates:
        if _is_pipeline(candidate):
            return candidate
    names = sorted(p.name for p in shipped.iterdir() if _is_pipeline(p)) if shipped.is_dir() else []
    raise FileNotFoundError(
        f"No weights {str(name_or_folder)!r}: expected a folder with {INDEX}, '{SMOKE}', or a name below {shipped} "
        f"({', '.join(names) or 'which holds none'}). Clone the repository, or set {DATA_VARIABLE} to its data folder."
    )


def _is_pipeline(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder / BESIDE).is_file()


def _verify(folder: Path) -> None:
    """Checksums, and that the list itself leaves out no weights."""
    verify_checksums(folder)
    listed = {line.split("  ", 1)[1] for line in (folder / CHECKSUMS).read_text().splitlines()}
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")}
    if extra := sorted(present - listed):
        raise ValueError(
            f"{', '.join(extra)} in {folder} not in {CHECKSUMS}: the list was truncated or a file was added; "
            "restore the folder (git checkout), or save the pipeline again."
        )


def _smoke(variant: Variant | None) -> MRPipeline:
    """Tiny random weights, the same in every process."""
    from mrtutor.models import build_components
    from mrtutor.presets import load_preset

    preset = load_preset(SMOKE)
    chosen = variant or Variant(preset.variant)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SMOKE_SEED)
        components = build_components(preset, chosen)
    sampler = preset.sampler
    return MRPipeline(
        **components,
        variant=str(chosen),
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        guidance_interval=sampler.guidance_interval,
        guide_structure=sampler.guide_structure,
        eta=sampler.eta,
    )


def save_pipeline(pipe: MRPipeline, folder: str | Path, card: str | None = None) -> Path:
    """Write float16 safetensors in the standard layout, with `SHA256SUMS`: the whole folder or nothing.

    Args:
        pipe: stays as it is, in its own number format and on its device.
        folder: made new; an older pipeline in it is replaced.
        card: text of README.md, the model card.

    Raises:
        ValueError: the folder holds something else than a pipeline; a weight does not fit float16.
        OSError: no permission, full disk: the folder is as it was.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / INDEX).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no pipeline folder (no {INDEX}): choose another name.")
    modules = {name: halved(name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    packed = MRPipeline(**(pipe.components | modules), **pipe.parameters)
    with replace_folder(folder) as temporary:
        packed.save_pretrained(temporary, safe_serialization=True)
        if card is not None:
            write_text(temporary / "README.md", card)
        write_checksums(temporary)
    return folder
