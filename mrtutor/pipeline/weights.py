"""Weights on disk: found by name, checked, loaded, and shipped.

A folder of weights, also a training run's, has the standard layout of diffusers. What is shipped is float16 safetensors
and nothing that could run code, with `training.json`, `README.md` (the model card) and `SHA256SUMS` over every file.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from torch import nn

from mrtutor import files
from mrtutor.models import build_components
from mrtutor.models.guidance import guidance_of
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.presets import load_preset

INDEX = MRPipeline.config_name  # model_index.json
TRAINING = "training.json"


def load_pretrained(
    name_or_folder: str | Path = "laptop", variant: str | None = None, device: torch.device | str | None = None
) -> MRPipeline:
    """Open a pipeline in float32. Shipped weights are checked: a damaged, missing or added file is named.

    Args:
        name_or_folder: a name below `data/pretrained`, the folder of any pipeline or training run, or "smoke" for tiny
            random weights in memory.
        variant: the guidance variant wanted; default what the folder holds.
        device: default CUDA where there is some, else the CPU.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(name_or_folder) == "smoke":
        preset = load_preset("smoke")
        variant = variant or preset.variant
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = build_components(preset, variant)
        settings = {"sampler": preset.sampler, "mask_padding": preset.mask_padding, "findings": True}
        return MRPipeline(**parts, variant=variant, **settings).to(device)
    folder = pipeline_folder(name_or_folder)
    if (folder / files.CHECKSUMS).is_file() or folder.is_relative_to(files.data_root() / "pretrained"):
        files.verify_checksums(folder)
    try:
        pipe = MRPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder} cannot be read ({error}): restore it or train it again.") from error
    if variant not in (None, pipe.variant):
        raise ValueError(f"{folder} holds variant {pipe.variant}, expected {variant}: train that one with --start.")
    pipe.text_encoder.float()  # transformers keeps the file's float16, diffusers does not
    return pipe.to(device)


def pipeline_folder(name_or_folder: str | Path) -> Path:
    """Folder of weights by name or path; a FileNotFoundError lists the names."""
    shipped = files.data_root() / "pretrained"
    for candidate in (shipped / name_or_folder, Path(name_or_folder)):
        if (candidate / INDEX).is_file():
            return candidate
    names = ", ".join(["smoke", *sorted(path.parent.name for path in shipped.glob(f"*/{INDEX}"))])
    raise FileNotFoundError(f"No weights {str(name_or_folder)!r}: expected a folder with {INDEX}, or a name ({names}).")


def ship(pipe: MRPipeline, folder: str | Path, card: str | None = None, training: Mapping | None = None) -> Path:
    """Write float16 safetensors, `card` as README.md, `training` as training.json, SHA256SUMS: all or nothing.

    An older pipeline in `folder` is replaced; anything else in it, or a weight beyond float16, is a ValueError.
    """
    folder = Path(folder)
    if (folder.is_file() or any(folder.glob("*"))) and not (folder / INDEX).is_file():
        raise ValueError(f"{folder} exists and is no pipeline folder (no {INDEX}): choose another name.")
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    for name, part in parts.items():
        weights = part.cpu().half().state_dict() if isinstance(part, nn.Module) else {}
        if not all(torch.isfinite(weight).all() for weight in weights.values()):
            raise ValueError(f"A weight of {name} is NaN or beyond float16: go back to an earlier checkpoint.")
    with files.replace_folder(folder) as temporary:
        MRPipeline(**parts, **pipe.parameters).save_pretrained(temporary, safe_serialization=True)
        for path in temporary.glob("*/*.json"):  # diffusers notes where a part was opened: a path of this machine
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None):
                files.write_json(path, content)
        files.write_json(temporary / TRAINING, dict(training or {}))
        if card is not None:
            files.write_text(temporary / "README.md", card)
        files.write_checksums(temporary)
    return folder


def training_of(folder: str | Path) -> dict[str, dict]:
    """What trained the components in `folder`: stage -> cohorts, steps, seconds, device, … ({} if not recorded)."""
    path = Path(folder) / TRAINING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


CARD = """# mrtutor `{name}`: controllable multi-modality MR slices
Draws a brain-tumour MR slice from a sentence and an edge map (Canny 100/200), after Kim et al., WACV 2024. {note}
**Every picture is synthetic: for teaching and experiments, not for diagnosis.** Neighbouring slices do not match.
## Trained, on the training split of each cohort
Guidance variant **{variant}**: {label}.\n\n{trained}
## Measured\n\n{measured}
"""


def model_card(name: str, variant: str, training: Mapping[str, dict], figures: pd.DataFrame | None = None) -> str:
    """Model card from training.json's content and from these weights' rows of `mrtutor.figures.load_figures()`."""
    cohorts = [cohort for about in training.values() for cohort in about.get("cohorts", [])]
    told = training and all(about.get("cohorts") and not about.get("start") for about in training.values())
    tags, note = ["medical-imaging", "mri", "latent-diffusion"], "What trained these weights is not all recorded."
    if any(cohort["source"] != "simulated" for cohort in cohorts):
        note = "Slices of patients trained these weights: look for memorised ones, and at the cohorts' licences."
    elif told:
        tags, note = [*tags, "simulated-data"], "Nothing here was trained on a patient: the pictures look simulated."
    rows = []
    for stage, about in training.items():
        data = [f"{c['source']}, {c['patients']} patients (`{c['key']}`)" for c in about.get("cohorts", [])]
        rows.append({"stage": stage} | about | {"cohorts": "; ".join(data)})
    measured = "Not yet: run `mrtutor evaluate`." if figures is None else _table(figures)
    parts = {"trained": _table(pd.DataFrame(rows, dtype=object)), "measured": measured}
    header = ModelCardData(license="mit", library_name="diffusers", tags=tags).to_yaml()
    body = CARD.format(name=name, note=note, variant=variant, label=guidance_of(variant).label, **parts)
    return str(ModelCard(f"---\n{header}\n---\n{body}"))


def _table(frame: pd.DataFrame) -> str:
    shown = frame.dropna(axis="columns", how="all")
    lines = shown.to_csv(sep="|", index=False, float_format="%.4g", quoting=3, escapechar="\\").splitlines()
    return "\n".join([*lines[:1], "|".join(["---"] * shown.shape[1]), *lines[1:]])
