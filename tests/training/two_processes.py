"""What each of two processes runs for `test_stages.py`; `accelerate launch` starts it with COHORT OUT."""

import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from mrtutor.data.cohort import Cohort
from mrtutor.presets import load_preset
from mrtutor.training.stages import Run, train

SMOKE = load_preset("smoke")


def autoencoder_run(cohort: Cohort, folder: Path, accumulation: int) -> Run:
    """Six steps of two micro-batches in all."""
    settings = replace(SMOKE.stages["autoencoder"], accumulation=accumulation)
    return Run(replace(SMOKE, stages=SMOKE.stages | {"autoencoder": settings}), [cohort], folder)


if __name__ == "__main__":
    cohort, out = Cohort.open(sys.argv[1]), Path(sys.argv[2])
    train(autoencoder_run(cohort, out / "moved", 1), "autoencoder", resume=True)  # the end of one that one began
    for variant in ("paper", "A"):  # only a part gets a gradient
        train(Run(SMOKE, [cohort], out / variant, steps=1, start=out / "plain", variant=variant), "guidance")
    state = PartialState()
    (out / f"process-{state.process_index}.txt").write_text(f"{state.num_processes} {state.backend}")
