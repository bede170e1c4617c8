"""Train the autoencoder, on as many processes as `accelerate launch` starts: each of them runs this file.

    accelerate launch --config_file notebooks/accelerate/two_cpus.yaml notebooks/accelerate/train_autoencoder.py \
        --preset smoke --out outputs/06/two

All stages, on GPUs: accelerate launch --config_file notebooks/accelerate/four_gpus.yaml -m mrtutor train all …
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from mrtutor.data.cohort import Cohort
from mrtutor.data.examples import examples_cohort
from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.presets import load_preset
from mrtutor.training.batches import SliceBatches
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import AutoencoderObjective


def main(arguments: Sequence[str] | None = None) -> torch.nn.Module:
    """Read the command line, train, and return the model with its averaged weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smoke", help="smoke, laptop, colab or paper")
    parser.add_argument("--cohort", help="folder of a prepared cohort; default the examples of the course")
    parser.add_argument("--out", required=True, help="folder for checkpoint, log and cost")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of each process per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(arguments)

    preset = load_preset(args.preset)
    settings = replace(preset.stages["autoencoder"], steps=args.steps, accumulation=args.accumulation)
    cohort = Cohort.open(args.cohort) if args.cohort else examples_cohort()
    torch.manual_seed(args.seed)  # the same initial weights on every process
    model = build_autoencoder(preset.autoencoder)
    batches = SliceBatches(cohort, cohort.rows("train"), settings.crop, preset.autoencoder.unshuffle)
    stage = Stage("autoencoder", model, AutoencoderObjective(), batches, settings, tags={"preset": preset.name})
    return fit(stage, args.out, seed=args.seed, resume=args.resume, device=args.device)


if __name__ == "__main__":
    main()
