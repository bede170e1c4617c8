"""Train a small autoencoder, on as many processes as `accelerate launch` starts: each of them runs this file.

    accelerate launch --config_file notebooks/accelerate/two_cpus.yaml notebooks/accelerate/train_autoencoder.py \
        --out outputs/06/two

All stages, on GPUs: accelerate launch --config_file notebooks/accelerate/four_gpus.yaml -m mrtutor train all …
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from mrtutor import Cohort
from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.presets import load_preset
from mrtutor.training.data import SliceBatches, TrainingSlices
from mrtutor.training.loop import Stage, fit
from mrtutor.training.objectives import AutoencoderObjective


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train, in float32 whatever this machine prefers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for checkpoint and log")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of each process per step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(arguments)

    preset = load_preset("smoke")
    settings = replace(preset.stages["autoencoder"], steps=args.steps, accumulation=args.accumulation)
    torch.manual_seed(0)  # the same initial weights on every process
    model = build_autoencoder(preset.autoencoder)
    batches = SliceBatches(TrainingSlices([Cohort.examples()]), settings.crop)
    fit(Stage("autoencoder", model, AutoencoderObjective(), batches, settings), args.out, device=args.device)


if __name__ == "__main__":
    main()
