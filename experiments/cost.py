"""Seconds of a sequence of four, in turns: as shipped, with the paper's DDIM-100, and in the ordinary diffusers loop.

python -m experiments.cost --weights laptop
"""

from functools import partial
from timeit import timeit

import numpy as np
import torch
import typer
from torch import Tensor

from experiments.tables import keep
from mrtutor.data.cohort import Cohort
from mrtutor.figures import Figure
from mrtutor.models.autoencoder import decode
from mrtutor.pipeline.draw import weights_key
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.training.loop import peak_memory_mib
from mrtutor.vocabulary import Modality


@torch.no_grad()
def ordinary_sequence(pipe: MRPipeline, edges: np.ndarray, steps: int, seed: int = 0) -> Tensor:
    """(4, 256, 256) in [0, 1]: one modality after another, float32, guided at each step, the edges led in anew."""
    structure, config, pictures = torch.from_numpy(edges > 0).float().expand(2, 1, -1, -1), pipe.unet.config, []
    for modality in Modality:
        text, mask = pipe.encode(["", pipe.sentence(modality, "wild")])
        noise = torch.Generator().manual_seed(seed)
        latents = torch.randn(1, config.out_channels, config.sample_size, config.sample_size, generator=noise)
        pipe.scheduler.set_timesteps(steps)
        for t in pipe.scheduler.timesteps:
            condition = pipe.method.condition(structure, pipe.autoencoder)
            inputs = (pipe.unet, pipe.guidance, latents.expand(2, -1, -1, -1), t, text, condition)
            plain, wanted = pipe.method.predict(*inputs, mask=mask).chunk(2)
            guided = plain + pipe.sampler.guidance_scale * (wanted - plain)
            latents = pipe.scheduler.step(guided, t, latents, return_dict=False)[0]
        pictures.append(decode(pipe.autoencoder, latents)[0, 0])
    return (torch.stack(pictures) / 2 + 0.5).clamp(0, 1)


def main(weights: str = "laptop", rounds: int = 6, steps: int = 100) -> None:
    """From six rounds on, the smallest and the largest time are a 95 % interval of the median."""
    pipe, edges = load_pretrained(weights, device="cpu"), Cohort.examples().structure(0, Modality.T1GD)
    pipe.set_progress_bar_config(disable=True)
    shipped, ddim = partial(pipe.sequence, "wild", edges), f"ddim{steps}"
    slow = partial(shipped, num_inference_steps=steps, guidance_interval=(0, 1), eta=0.0)
    ordinary = partial(ordinary_sequence, pipe, edges, steps)
    ways = {pipe.variant: shipped, f"{pipe.variant}_{ddim}": slow, f"ordinary_{ddim}": ordinary}
    shipped()  # warms up; the memory is that of drawing as shipped
    about = {"experiment": "cost", "weights": weights_key(pipe)}
    figures = [Figure(model=pipe.variant, metric="peak_memory_mib", value=peak_memory_mib(), n=1, unit="MiB", **about)]
    seconds = [[timeit(draw, number=1) for draw in ways.values()] for _ in range(rounds)]
    for name, took in zip(ways, np.transpose(seconds), strict=True):
        numbers = {"value": np.median(took), "low": took.min(), "high": took.max(), "n": rounds, "unit": "s"}
        figures.append(Figure(model=name, metric="seconds_per_sequence", **numbers, **about))
    keep(figures)


if __name__ == "__main__":
    typer.run(main)
