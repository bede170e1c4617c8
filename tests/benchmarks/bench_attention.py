"""What tracing costs: seconds of a traced sequence over a plain one, and bytes stored, for two numbers of steps.

    python tests/benchmarks/bench_attention.py [--pipeline laptop] [--steps 4 8] [--repeats 3]

The bar (issue 11): at most 1.5 x plain sampling, and memory that does not depend on the steps. Plain and traced runs
take turns and the smallest time of each counts; on a busy machine the processor time is the fairer figure.
"""

import argparse
import json
from contextlib import nullcontext
from time import perf_counter, process_time

import torch

from mrtutor.data.examples import example_names, load_example
from mrtutor.files import write_json
from mrtutor.sampling.attention import trace_attention
from mrtutor.sampling.pretrained import load_pretrained

BAR = 1.5


def measure(pipe: object, structure: object, steps: int, repeats: int) -> dict:
    """Seconds of a sequence, plain and traced, and what the trace stored."""
    names, seconds = ("plain", "traced"), {}
    for _ in range(repeats):
        drawn = {}
        for name in names:
            wall, processor = perf_counter(), process_time()
            with trace_attention(pipe) if name == "traced" else nullcontext() as trace:
                drawn[name] = pipe.sequence("wild", structure, num_inference_steps=steps)
            seconds.setdefault(f"{name}_wall_s", []).append(perf_counter() - wall)
            seconds.setdefault(f"{name}_processor_s", []).append(process_time() - processor)
        assert all(torch.allclose(drawn["plain"][m], drawn["traced"][m], atol=1e-4) for m in drawn["plain"])
    least = {name: min(values) for name, values in seconds.items()}
    overhead = {
        f"overhead_{kind}": least[f"traced_{kind}_s"] / least[f"plain_{kind}_s"] for kind in ("wall", "processor")
    }
    return least | overhead | {"stored_bytes": trace.nbytes}


def main() -> None:
    """Measure, print, say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="laptop", help="name or folder of weights")
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 8))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="JSON to write as well")
    args = parser.parse_args()
    pipe = load_pretrained(args.pipeline, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    structure = load_example(example_names()[0]).structure
    found = {f"{steps} steps": measure(pipe, structure, steps, args.repeats) for steps in args.steps}
    stored = {row["stored_bytes"] for row in found.values()}
    overhead = max(row["overhead_processor"] for row in found.values())
    found |= {"pipeline": args.pipeline, "threads": torch.get_num_threads(), "overhead": overhead}
    found |= {"memory_independent_of_steps": len(stored) == 1, "within_the_bar": overhead <= BAR}
    print(json.dumps(found, indent=2))
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
