"""Guidance variants under one budget: the same start, steps, batches, seed and held-out edge maps.

    python -m experiments.variants --cohort outputs/real --start outputs/plain --steps 300

Each is trained in a folder of its own, which is a pipeline afterwards. A finished one is not trained again.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from experiments.tables import keep
from mrtutor.data.cohort import Cohort
from mrtutor.figures import Figure
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.sequence import structure_f1
from mrtutor.models.precision import best_device
from mrtutor.pipeline.draw import DrawSpec, draw_sets, weights_key
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.presets import load_preset
from mrtutor.training.loop import COST, LOG
from mrtutor.training.stages import Run, train

VARIANTS = ("paper", "A", "B", "C", "D")
# The same for all, whatever a preset samples with; guidance sharpens the sentence alone.
SAMPLING = {"guidance_scale": 1.5, "guidance_interval": (0.2, 0.8), "guide_structure": False, "eta": 1.0}


def variant_figures(run: Run, cohort: Cohort, count: int) -> list[Figure]:
    """Train one variant where it is not yet trained; its validation curve, and how its pictures follow the edges."""
    train(run, "guidance", resume=True)
    work, pipe, rows = run.work("guidance"), load_pretrained(run.folder), []
    about = {"experiment": "variants", "model": run.method.name, "weights": weights_key(pipe), "seed": run.seed}
    about["cohort"] = "simulated" if cohort.simulated else "real"
    log = pd.read_csv(work / LOG)
    curve = log[(log["split"] == "validation") & (log["name"] == "error")]
    for step, value in zip(curve["step"], curve["value"], strict=True):
        rows.append(Figure(metric="validation_error", group=f"step {step:03d}", value=value, **about))
    seconds = json.loads((work / COST).read_text())["seconds"]
    rows.append(Figure(metric="training_seconds", value=seconds, unit="s", **about))
    drawn = draw_sets(DrawSpec(count, options=SAMPLING), run.folder / "drawn", pipe, cohort)
    lenders, patients = drawn.table["edges_of"], drawn.table["patient"]
    asked = np.stack([cohort.structure(row, m) for row, m in zip(drawn.table["row"], lenders, strict=True)])
    # the null: the edge map of the next sequence, another patient's
    for metric, maps in {"edge_f1": asked, "edge_f1_null": np.roll(asked, -1, axis=0)}.items():
        found = estimate([structure_f1(*one) for one in zip(drawn.images, maps, lenders, strict=True)], patients)
        rows.append(Figure(metric=metric, **vars(found), **about))
    return rows


def main(
    cohort: Annotated[Path, typer.Option()],
    variant: Annotated[list[str] | None, typer.Option()] = None,
    start: str = "laptop",
    preset: str = "laptop",
    steps: int = 300,
    count: int = 24,
    out: Path = Path("outputs/variants"),
) -> None:
    """Train all variants, or those given, from the plain U-Net of `start`; draw `count` sequences of each."""
    sizes, opened = load_preset(preset), Cohort.open(cohort)
    changes = {"steps": steps, "warmup": steps // 10 + 1, "validate_every": max(1, steps // 10)}
    sizes = replace(sizes, stages=sizes.stages | {"guidance": replace(sizes.stages["guidance"], **changes)})
    for name in variant or VARIANTS:
        options = {"device": str(best_device()), "start": start, "variant": name}
        keep(variant_figures(Run(sizes, [opened], out / name, **options), opened, count))


if __name__ == "__main__":
    typer.run(main)
