"""The model card that travels with a pipeline: what it is for, what trained it, what was measured."""

import json
from pathlib import Path

import pandas as pd

TEMPLATE = """---
license: mit
library_name: diffusers
tags: [medical-imaging, mri, latent-diffusion, simulated-data]
---
# mrtutor `{preset}`: controllable multi-modality MR slices

A latent diffusion model that draws a 256 × 256 brain-tumour MR slice from a sentence
("A T1Gd modality MR image, type of IDH wild glioma") and a structure map (Canny edges 100/200). Same structure, noise
and seed with another modality word give a whole sequence: FLAIR, T1, T1Gd, T2. It rebuilds, on a *simulated* cohort,
Kim et al., *Controllable Text-to-Image Synthesis for Multi-Modality MR Images*, WACV 2024.

**Not for diagnosis.** Every picture is synthetic; nothing here was trained on a patient.

## Intended use
Teaching, and experiments on controllable generation and its evaluation. Not for clinical decisions, not as a substitute
for patient data, not as evidence about gliomas: the anatomy is one deformed template, the tumours are solutions of a
growth equation, and the IDH phenotype follows published rates that we put in by hand.

## What trained it
- Data: {data}
- Device: {device}
- Guidance variant shipped: **{variant}** ({variant_words})

{training}

## What was measured
{figures}

## Limits
- Simulated contrast: no skull, no vessels beyond a few, no motion, one scanner's timing. Real structure maps work as
  input, but the pictures look simulated.
- One slice at a time: neighbouring slices are not consistent.
- A structure map fixes the outline of a lesion; the sentence decides how it is painted. Where both disagree (a
  wild-type ring in the map, "mutant" in the sentence) the result is a compromise.

Files are float16 safetensors in the standard layout; each sub-folder opens with diffusers or transformers alone.
`SHA256SUMS` is checked on load.
"""

VARIANT_WORDS = {
    "none": "no structure: the plain latent diffusion model",
    "A": "residual into the middle block, the paper's",
    "B": "residuals into middle block and skip connections",
    "C": "like B, structure as a latent",
    "D": "structure concatenated to the denoiser's input",
}


def model_card(*, preset: str, variant: str, data: str, device: str, runs: Path, results: dict | None) -> str:
    """Markdown text of the card.

    Args:
        runs: folder with `<stage>/log.csv` of the training run; the table of stages is read from there.
        results: content of `data/results/weights.json`, or None if nothing was measured yet.
    """
    return TEMPLATE.format(
        preset=preset,
        variant=variant,
        variant_words=VARIANT_WORDS[variant],
        data=data,
        device=device,
        training=_training_table(runs),
        figures=_figures_table(results) if results else "Not measured yet: run `mrtutor evaluate --quick`.",
    )


def _training_table(runs: Path) -> str:
    lines = ["| stage | steps | minutes | peak memory, MiB | last validation |", "|---|---|---|---|---|"]
    for cost_file in sorted(runs.glob("*/cost.json")):  # written at a stage's end
        cost, log = json.loads(cost_file.read_text()), cost_file.with_name("log.csv")
        table = pd.read_csv(log)
        last = table[table["split"] == "validation"].groupby("name")["value"].last()
        words = ", ".join(f"{name} {value:.4g}" for name, value in last.items()) or "none"
        minutes = cost["seconds"] / 60
        lines.append(f"| {log.parent.name} | {cost['steps']} | {minutes:.1f} | {cost['peak_mib']} | {words} |")
    return "\n".join(lines)


def _figures_table(results: dict) -> str:
    lines = [
        f"Unseen test patients; seed {results['seed']}; 95 % bootstrap intervals over patients.",
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
            rows.append(f"| {label} | {entry['value']:.4g} | {low:.4g} … {high:.4g} | {entry['n']} |")
        elif isinstance(entry, dict):
            rows += _rows(label, entry)
        else:
            rows.append(f"| {label} | {entry if isinstance(entry, str) else format(entry, '.4g')} | | |")
    return rows
