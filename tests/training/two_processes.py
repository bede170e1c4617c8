"""What each of two processes runs for `test_distributed.py`; `accelerate launch` starts it.

    accelerate launch --config_file notebooks/accelerate/two_cpus.yaml tests/training/two_processes.py COHORT OUT

One start for all of it, because importing the libraries is what takes the time.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from mrtutor.data.cohort import Cohort
from mrtutor.files import write_json
from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.guidance import Variant
from mrtutor.presets import load_preset
from mrtutor.training import stages
from mrtutor.training.batches import SliceBatches
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import AutoencoderObjective

STEPS = 12  # the log has a row each 10


def autoencoder_stage(cohort: Cohort, accumulation: int) -> Stage:
    """The autoencoder of `smoke` on small crops, always from the same initial weights."""
    preset = load_preset("smoke")
    settings = replace(preset.stages["autoencoder"], steps=STEPS, accumulation=accumulation, checkpoint_every=5)
    torch.manual_seed(0)
    model = build_autoencoder(preset.autoencoder)
    batches = SliceBatches(cohort, cohort.rows("train"), settings.crop, preset.autoencoder.unshuffle)
    return Stage("autoencoder", model, AutoencoderObjective(), batches, settings)


def main(cohort: Cohort, out: Path) -> None:
    """A whole run, the end of a run that one process began, and every stage with the paper's guidance."""
    model = fit(autoencoder_stage(cohort, 1), out / "two")
    fit(autoencoder_stage(cohort, 1), out / "moved", resume=True)
    run = stages.Run(load_preset("smoke"), cohort, out / "run", steps=2)
    made = [stages.train(run, stage, variant=Variant.A) for stage in stages.STAGES]
    state = PartialState()
    said = {"processes": state.num_processes, "device": state.device.type, "backend": state.backend}
    said |= {"there": [path.is_dir() for path in made], "sum": sum(p.double().sum().item() for p in model.parameters())}
    write_json(out / f"process-{state.process_index}.json", said)


if __name__ == "__main__":
    main(Cohort.open(sys.argv[1]), Path(sys.argv[2]))
