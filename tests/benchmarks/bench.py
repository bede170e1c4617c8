"""What things cost, as ratios measured in one run: two ways take turns, and medians are compared.

    python tests/benchmarks/bench.py sampling|trace|training|threads [--weights laptop] [--repeats 5]

sampling: `MRPipeline.sequence` against the ordinary loop, one modality after the other, in float32.
trace: a sequence under `trace_attention` against one without.
training: one step of the denoiser in the fastest number format and channels-last against plain float32.
threads: a sequence of three steps beside a process that keeps one core busy, OpenMP as we set it or not.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from time import perf_counter

import torch

from mrtutor import Cohort, Modality, load_pretrained
from mrtutor.models.precision import autocast, autocast_dtype
from mrtutor.pipeline.attention import trace_attention

BATCH = 16


def sampling(pipe, edges) -> dict[str, Callable]:
    """One batch with everything computed once, and the ordinary way."""

    def ordinary() -> None:
        pipe.precision = torch.float32
        for modality in Modality:
            pipe.sequence("wild", edges, modalities=[modality], guidance_interval=(0.0, 1.0))
        pipe.precision = None

    return {"ours": lambda: pipe.sequence("wild", edges), "ordinary": ordinary}


def trace(pipe, edges) -> dict[str, Callable]:
    """With and without a trace."""

    def draw(context) -> None:
        with context:
            pipe.sequence("wild", edges, num_inference_steps=8)

    return {"plain": lambda: draw(nullcontext()), "traced": lambda: draw(trace_attention(pipe))}


def training(pipe, _edges) -> dict[str, Callable]:
    """Forward and backward pass of the U-Net on random latents."""
    unet, config = pipe.unet.train(), pipe.unet.config
    latents = torch.randn(BATCH, config.in_channels, config.sample_size, config.sample_size)
    text = torch.randn(BATCH, 16, config.cross_attention_dim)
    t = torch.randint(0, 1000, (BATCH,))

    def step(dtype: torch.dtype, layout: torch.memory_format) -> None:
        unet.to(memory_format=layout)
        with autocast("cpu", dtype):
            unet(latents.contiguous(memory_format=layout), t, text).sample.float().square().mean().backward()
        unet.zero_grad(set_to_none=True)

    return {
        "fast": lambda: step(autocast_dtype("cpu"), torch.channels_last),
        "plain": lambda: step(torch.float32, torch.contiguous_format),
    }


SEQUENCE = """
from statistics import median
from time import perf_counter
from mrtutor import Cohort, load_pretrained
pipe, edges, seconds = load_pretrained({weights!r}, device="cpu"), Cohort.examples().structure(0, "T1Gd"), []
pipe.set_progress_bar_config(disable=True)
for _ in range({repeats} + 1):
    start = perf_counter()
    pipe.sequence("wild", edges, num_inference_steps=3)
    seconds.append(perf_counter() - start)
print(median(seconds[1:]))
"""


def threads(weights: str, repeats: int) -> dict[str, list[float]]:
    """Medians of fresh processes in turn: OpenMP reads its settings once, when torch is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    code, seconds = SEQUENCE.format(weights=weights, repeats=repeats), {"ours": [], "OpenMP's default": []}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            for _ in range(2):
                for name, first in zip(seconds, ("", "import torch"), strict=True):
                    command = [sys.executable, "-c", first + code]
                    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                    seconds[name].append(float(said.stdout.split()[-1]))
        finally:
            busy.kill()
    return seconds


def measured(ways: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way; the first run warms up and does not count."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, run in ways.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sampling", "trace", "training", "threads"))
    parser.add_argument("--weights", default="laptop")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.what == "threads":
        seconds = threads(options.weights, options.repeats)
    else:
        pipe = load_pretrained(options.weights, device="cpu")
        pipe.set_progress_bar_config(disable=True)
        ways = globals()[options.what](pipe, Cohort.examples().structure(0, "T1Gd"))
        seconds = measured(ways, options.repeats)
    medians = {name: median(times) for name, times in seconds.items()}
    (first, a), (second, b) = medians.items()
    print(f"{first} {a:.2f} s, {second} {b:.2f} s, ratio {b / a:.2f}; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
