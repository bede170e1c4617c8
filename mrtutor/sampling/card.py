"""The model card that travels with a pipeline: what it is for, what trained it, what was measured."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mrtutor.sampling.origin import describe, devices, kind, notes

TEMPLATE = """---
license: mit
library_name: diffusers
tags: [medical-imaging, mri, latent-diffusion{tag}]
---
# mrtutor `{preset}`: controllable multi-modality MR slices

A latent diffusion model that draws a 256 × 256 brain-tumour MR slice from a sentence
("A T1Gd modality MR image, type of IDH wild glioma") and a structure map (Canny edges 100/200). Same structure, noise
and seed with another modality word give a whole sequence: FLAIR, T1, T1Gd, T2. It rebuilds{cohort}
Kim et al., *Controllable Text-to-Image Synthesis for Multi-Modality MR Images*, WACV 2024.

**Not for diagnosis.** Every picture is synthetic; {patients}

## Intended use
Teaching, and experiments on controllable generation and its evaluation. Not for clinical decisions, not as a substitute
for patient data, not as evidence about gliomas{evidence}.

## What trained it
- Data: {data}
- Device: {device}
- Guidance variant shipped: **{variant}** ({variant_words})

{training}
{notes}
## What was measured
{figures}

## Limits
{contrast}- One slice at a time: neighbouring slices are not consistent.
- A structure map fixes the outline of a lesion; the sentence decides how it is painted. Where both disagree (a
  wild-type ring in the map, "mutant" in the sentence) the result is a compromise.

Files are float16 safetensors in the standard layout; each sub-folder opens with diffusers or transformers alone.
`SHA256SUMS` is checked on load.
"""

# What depends on the data: tag · cohort · patients · evidence · contrast; of data that is not simulated we know less.
SIMULATED = {
    "tag": ", simulated-data",
    "cohort": ", on a *simulated* cohort,",
    "patients": "nothing here was trained on a patient.",
    "evidence": """: the anatomy is one deformed template, the tumours are solutions of a
growth equation, and the IDH phenotype follows published rates that we put in by hand""",
    "contrast": """\
- Simulated contrast: no skull, no vessels beyond a few, no motion, one scanner's timing. Real structure maps work as
  input, but the pictures look simulated.
""",
}
PATIENTS = {
    "real": """slices of patients trained these weights: look for
memorised ones, and at the cohort's licence, before you share either.""",
    "unknown": """what trained these weights is not all recorded:
do not take them for free of patients' data.""",
}
NOT_MEASURED = "Not measured yet: run `mrtutor evaluate --quick`, then `mrtutor pack` again."
BASELINE = """As a baseline, beside the pipeline whose U-Net it shares, by `mrtutor evaluate --paper-variant`: rows
`variant_A` of `data/results/evaluation.json`, and the tables in the course's README."""
NO_LOG = "No log of the training lies beside these weights."
VARIANT_WORDS = {
    "none": "no structure: the plain latent diffusion model",
    "A": "residual into the middle block, the paper's",
    "B": "residuals into middle block and skip connections",
    "C": "like B, structure as a latent",
    "D": "structure concatenated to the denoiser's input",
}


def model_card(
    *,
    preset: str,
    variant: str,
    origins: dict[str, dict],
    runs: Path,
    device: str | None = None,
    results: dict | None = None,
    unmeasured: str = NOT_MEASURED,
) -> str:
    """Markdown text of the card.

    Args:
        origins: what made each stage that is in the weights, see `mrtutor.sampling.origin`.
        runs: folder with `<stage>/log.csv` of the training run; the table of stages is read from there.
        device: what trained the weights; default what the origins say.
        results: content of `data/results/weights.json`, or None if these weights were not measured yet.
        unmeasured: what stands in the place of such figures.
    """
    data = kind(origins)
    words = SIMULATED if data == "simulated" else dict.fromkeys(SIMULATED, "") | {"patients": PATIENTS[data]}
    return TEMPLATE.format(
        preset=preset,
        variant=variant,
        variant_words=VARIANT_WORDS[variant],
        data=describe(origins),
        device=device or devices(origins),
        training=_training_table(runs, origins),
        notes=notes(origins),
        figures=_figures_table(results) if results else unmeasured,
        **words,
    )


def _training_table(runs: Path, stages: Iterable[str]) -> str:
    lines = []
    for cost_file in (runs / stage / "cost.json" for stage in stages):
        if not cost_file.is_file():  # written at a stage's end
            continue
        cost, log = json.loads(cost_file.read_text()), cost_file.with_name("log.csv")
        table = pd.read_csv(log)
        last = table[table["split"] == "validation"].groupby("name")["value"].last()
        words = ", ".join(f"{name} {value:.4g}" for name, value in last.items()) or "none"
        minutes = cost["seconds"] / 60
        lines.append(f"| {log.parent.name} | {cost['steps']} | {minutes:.1f} | {cost['peak_mib']} | {words} |")
    head = ["| stage | steps | minutes | peak memory, MiB | last validation |", "|---|---|---|---|---|"]
    return "\n".join(head + lines) if lines else NO_LOG


def _figures_table(results: dict) -> str:
    lines = [
        f"Test patients of cohort `{results['of']['cohort']}`; seed {results['seed']}; 95 % bootstrap intervals over "
        "patients.",
        "",
        "| figure | value | 95 % interval | N |",
        "|---|---|---|---|",
    ]
    for section in ("autoencoder", "prompt", "structure", "sequence", "tumour", "memory", "diversity", "cost"):
        lines += _rows(section, results.get(section, {}))
    return "\n".join(lines)


def _rows(prefix: str, content: dict) -> list[str]:
    rows = []
    for name, entry in content.items():
        label = f"{prefix}: {name}"
        if isinstance(entry, dict) and "value" in entry:
            low, high = entry["ci95"]
            label += f" (after {entry['steps']} steps)" if "steps" in entry else ""
            rows.append(f"| {label} | {entry['value']:.4g} | {low:.4g} … {high:.4g} | {entry['n']} |")
        elif isinstance(entry, dict):
            rows += _rows(label, entry)
        else:
            rows.append(f"| {label} | {entry if isinstance(entry, str) else format(entry, '.4g')} | | |")
    return rows
