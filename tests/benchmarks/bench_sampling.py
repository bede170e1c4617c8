"""How much faster one batched, precomputed sequence is than the ordinary way of sampling it, at equal pictures.

    python tests/benchmarks/bench_sampling.py [--pipeline laptop | --random laptop --variant D] [--steps 10]

What is compared, and that the pictures are equal, stands in `mrtutor.metrics.cost`.
"""

import argparse
import json

import torch

from mrtutor.metrics.cost import sampling_cost
from mrtutor.models import build_components
from mrtutor.models.guidance import Variant
from mrtutor.presets import load_preset
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import load_pretrained


def random_pipeline(preset: str, variant: str) -> MRPipeline:
    """A preset's sizes with random weights: cost does not depend on what they are."""
    torch.manual_seed(0)
    recipe = load_preset(preset)
    return MRPipeline(**build_components(recipe, Variant(variant)), variant=variant, guidance_scale=2.0)


def main() -> None:
    """Measure, assert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="laptop", help="name or folder of weights")
    parser.add_argument("--random", metavar="PRESET", help="random weights of this preset instead")
    parser.add_argument("--variant", default="D", help="of the random weights")
    parser.add_argument("--steps", type=int, default=10, help="of the comparison with the ordinary way")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    random = args.random and random_pipeline(args.random, args.variant)
    pipe = random or load_pretrained(args.pipeline, device="cpu")
    print(json.dumps(sampling_cost(pipe, args.repeats, args.steps), indent=2))


if __name__ == "__main__":
    main()
