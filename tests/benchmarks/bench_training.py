"""Training throughput: cached latents, fast number format and channels_last against the ordinary loop.

    python tests/benchmarks/bench_training.py --cohort outputs/cohort [--pipeline laptop]

What is compared, and that the losses agree, stands in `mrtutor.metrics.cost`.
"""

import argparse
import json
from pathlib import Path

from mrtutor.data.cohort import Cohort
from mrtutor.metrics.cost import training_ratio
from mrtutor.sampling.pretrained import load_pretrained


def main() -> None:
    """Measure, assert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, default=Path("outputs/cohort"))
    parser.add_argument("--pipeline", default="laptop", help="name or folder of weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    pipe = load_pretrained(args.pipeline, device="cpu")
    print(json.dumps(training_ratio(pipe, Cohort.open(args.cohort), args.batch, args.rounds), indent=2))


if __name__ == "__main__":
    main()
